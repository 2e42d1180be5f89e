//! A network of its own for a test whose peers know only port 53 and the system's resolver.
use super::skip;
use std::process::Command;

const INSIDE: &str = "CVDMIRROR_TEST_NAMESPACE";
/// Runs in the new namespaces: loopback up, and its port 53 as the system's resolver.
const ENTER: &str = r#"
ip link set lo up || exit 1
mount --bind "$1" /etc/resolv.conf || exit 1
shift
exec "$@"
"#;

/// Runs the test of this name again inside network and mount namespaces of its own, where 127.0.0.1:53 is the system's resolver.
///
/// Returns whether this is the inside, where the test is to do its work. Outside it has run then, or been skipped.
pub fn inside(test: &str) -> bool {
    if is_inside() {
        return true;
    }
    // The module is not known here; that the name is one test's is seen below.
    let test = format!("::{test}");
    let again = [&test, "--nocapture", "--include-ignored"];
    let Some(output) = enter(&again, |command| command.output().unwrap()) else { return false };
    let said = String::from_utf8_lossy(&output.stdout);
    // What the inside skipped is to be seen outside.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Prepares this program to be run again inside such namespaces; none where they cannot be had.
pub fn enter<T>(args: &[&str], run: impl FnOnce(&mut Command) -> T) -> Option<T> {
    let resolv = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(resolv.path(), "nameserver 127.0.0.1\n").unwrap();
    // As root, plain; else through a user namespace, which some systems forbid, and as oneself in it: a client
    // that takes itself for root would try to be somebody else.
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] = match root {
        true => &["--net", "--mount"],
        false => &["--map-current-user", "--keep-caps", "--net", "--mount"],
    };
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(flags).args(["sh", "-c", ENTER, "sh"]).arg(resolv.path());
        unshare
    };
    match unshare().arg("true").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(&format!("no network namespace: {}", String::from_utf8_lossy(&output.stderr)));
            return None;
        }
        Err(e) => {
            skip(&format!("unshare: {e}"));
            return None;
        }
    }
    Some(run(unshare().arg(std::env::current_exe().unwrap()).args(args).env(INSIDE, "1")))
}
