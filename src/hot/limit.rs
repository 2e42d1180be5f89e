//! How much memory the process may use.
use std::path::Path;

/// The machine's memory, or less where a control group (cgroups(7), either version) has a limit, bytes.
pub(super) fn memory_bytes() -> u64 {
    // By the system call: the service does not see /proc/meminfo.
    let machine = rustix::system::sysinfo();
    let total = u64::from(machine.mem_unit).saturating_mul(machine.totalram);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit(&groups, Path::new("/sys/fs/cgroup")).map_or(total, |limit| limit.min(total))
}

/// The lowest limit of the groups in `/proc/self/cgroup` and of those above them. In a container the paths may be the
/// host's, and the limit stands at the root.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, files): (_, &[&str]) = match controllers {
            "" => (root.to_owned(), &["memory.max", "memory.high"]),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let texts =
                files.iter().filter_map(|file| std::fs::read_to_string(root.join(group).join(file)).ok());
            // `max` is none.
            limits.extend(texts.filter_map(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::fs;

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |group: &str, file: &str, text: &str| {
            fs::create_dir_all(dir.path().join(group)).unwrap();
            fs::write(dir.path().join(group).join(file), text).unwrap();
        };
        let limit = |groups: &str| limit(groups, dir.path());
        at("system.slice/mirror.service", "memory.max", "2000\n");
        at("system.slice/mirror.service", "memory.high", "max\n");
        assert_eq!(limit("0::/system.slice/mirror.service\n"), Some(2000));
        at("system.slice/mirror.service", "memory.high", "1000\n");
        assert_eq!(limit("0::/system.slice/mirror.service\n"), Some(1000));
        at("system.slice", "memory.max", "900\n");
        assert_eq!(limit("1:cpu:/x\n0::/system.slice/mirror.service\n"), Some(900));
        at("memory", "memory.limit_in_bytes", "700\n");
        assert_eq!(limit("4:blkio,memory:/docker/0f\n0::/\n"), Some(700));
        assert_eq!(limit("4:cpu:/docker/0f\n0::/\n"), None);
        assert_eq!(limit("nonsense"), None);
    }
}
