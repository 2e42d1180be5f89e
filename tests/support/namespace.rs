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

/// Runs the test again inside network and mount namespaces of its own, where 127.0.0.1:53 is the system's resolver.
///
/// Returns whether this is the inside, where the test is to do its work. Outside it has run then, or been skipped.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let resolv = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(resolv.path(), "nameserver 127.0.0.1\n").unwrap();
    // As root, plain; else through a user namespace, which some systems forbid, and as oneself in it: a client
    // that takes itself for root would try to be somebody else.
    let user: &[&str] = match rustix::process::geteuid().is_root() {
        true => &[],
        false => &["--map-current-user", "--keep-caps"],
    };
    let enter = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(user)
            .args(["--net", "--mount", "sh", "-c", ENTER, "sh"])
            .arg(resolv.path())
            .args(command);
        unshare
    };
    match enter(&["true"]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip(&format!("no network namespace: {}", String::from_utf8_lossy(&output.stderr)));
            return false;
        }
        Err(e) => {
            skip(&format!("unshare: {e}"));
            return false;
        }
    }
    let this = std::env::current_exe().unwrap();
    let again = [this.to_str().unwrap(), "--exact", test, "--nocapture", "--include-ignored"];
    let output = enter(&again).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // What the inside skipped is to be seen outside.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}
