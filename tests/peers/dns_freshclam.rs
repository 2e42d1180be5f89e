//! Stock freshclam in DNS mode, alone and behind real resolvers with the very lines of packaging/doc/clients.md.
use std::{
    fs,
    process::{Child, Command, Stdio},
};
use support::{
    clients::Freshclam,
    namespace, peer,
    process::{self, Lines},
    program::{Program, Serving},
    talos, wait_for,
};

const PAGE: &str = include_str!("../../packaging/doc/clients.md");
/// The mirror as the page has it, as each resolver writes an address and a port.
const PAGES_ADDRESS: &str = "192.0.2.10";

/// The page's lines for a resolver on the mirror's own host.
fn lines_for(resolver: &str) -> String {
    let block = PAGE.split(&format!("```{resolver}\n")).nth(1).unwrap().split("```").next().unwrap();
    assert!(block.contains(PAGES_ADDRESS), "{block}");
    block.replace(PAGES_ADDRESS, "127.0.0.1")
}

/// A mirror of the database `test` that holds version 4 as a CVD and 5 as a CDIFF only, and answers DNS.
struct Site {
    _program: Program,
    server: Serving,
    source: tempfile::TempDir,
}

impl Site {
    fn start(dns_listen: &str) -> Self {
        let source = tempfile::tempdir().unwrap();
        for (name, content) in [("test.cvd", "test-4.cvd"), ("test-5.cdiff", "test-5.cdiff")] {
            fs::write(source.path().join(name), talos(content)).unwrap();
        }
        let program = Program::new(&format!("dir:{}", source.path().display()))
            .set("dns-listen", dns_listen)
            .set("dns-zone", "clamav.net");
        program.sync().exits(0);
        let server = program.serve();
        Self { _program: program, server, source }
    }

    /// Writes a resolver's settings: what this test needs of its own, then the lines.
    fn settings(&self, own: &str, lines: &str) -> String {
        let path = self.source.path().join("resolver.conf");
        fs::write(&path, format!("{own}\n{lines}")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A freshclam that holds version 4 is brought to 5 by DNS and a CDIFF.
    fn brings_freshclam_to_5(&self) {
        let lines = format!("DatabaseMirror {}\nDNSDatabaseInfo current.cvd.clamav.net\n", self.server.url());
        let Some(client) = Freshclam::with(&lines) else { return };
        client.put("test.cvd", &talos("test-4.cvd"));
        // freshclam asks once, and a resolver that says that it runs may yet have no answer.
        let Some(dig) = peer("dig") else { return };
        wait_for("an answer to a question of DNS", || {
            let question = ["+short", "@127.0.0.1", "test.cvd.clamav.net", "TXT"];
            process::run(Command::new(&dig).args(question)).stdout.starts_with("\"5:").then_some(())
        });
        client.update(&["--verbose"]).exits(0).says([
            "Software version from DNS: 0.0.0",
            "test.cvd version from DNS: 5",
            "test.cld updated (version: 5,",
        ]);
        assert_eq!(client.version(), Some(5));
        wait_for("the request in the log", || (!self.server.requests().is_empty()).then_some(()));
        // A client that does not believe the DNS probes the alias first.
        assert_eq!(self.server.requests(), [("/test-5.cdiff".to_owned(), 200)]);
        let metrics = self.server.get("/metrics").text();
        let answered = metrics
            .lines()
            .find_map(|line| line.strip_prefix("cvdmirror_dns_responses_total{rcode=\"NOERROR\"} "));
        // One for each of the two records, whatever else a resolver asks.
        assert!(answered.unwrap().parse::<u32>().unwrap() >= 2, "{metrics}");
    }
}

/// A resolver that runs until it is dropped.
struct Resolver(Child);

impl Resolver {
    /// Starts one and waits until it says `ready`.
    fn start(command: &mut Command, ready: &str) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let command = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer.try_clone().unwrap());
        drop(writer);
        let mut resolver = Self(command.spawn().unwrap());
        let said = Lines::of(reader);
        wait_for(ready, || {
            if let Some(status) = resolver.0.try_wait().unwrap() {
                panic!("{status}: {}", said.so_far().join("\n"));
            }
            said.find(ready)
        });
        resolver
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn freshclam_believes_the_mirrors_own_record() {
    let Some(_) = peer("freshclam") else { return };
    if namespace::inside("freshclam_believes_the_mirrors_own_record") {
        Site::start("127.0.0.1:53").brings_freshclam_to_5();
    }
}

#[test]
fn the_lines_for_dnsmasq_lead_freshclam_here() {
    let Some(dnsmasq) = peer("dnsmasq") else { return };
    if !namespace::inside("the_lines_for_dnsmasq_lead_freshclam_here") {
        return;
    }
    let site = Site::start("127.0.0.1:5353");
    let own =
        "port=53\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file=\n";
    let settings = format!("--conf-file={}", site.settings(own, &lines_for("dnsmasq")));
    process::run(Command::new(&dnsmasq).args(["--test", &settings])).exits(0);
    let _running =
        Resolver::start(Command::new(&dnsmasq).args(["--no-daemon", &settings]), "started, version");
    site.brings_freshclam_to_5();
}

#[test]
fn the_lines_for_unbound_lead_freshclam_here() {
    let (Some(unbound), Some(check)) = (peer("unbound"), peer("unbound-checkconf")) else { return };
    if !namespace::inside("the_lines_for_unbound_lead_freshclam_here") {
        return;
    }
    let site = Site::start("127.0.0.1:5353");
    // It validates from the root's key, and the root is out of reach: only what the lines exempt can be resolved.
    let own = format!(
        "server:\n    interface: 127.0.0.1\n    port: 53\n    chroot: \"\"\n    username: \"\"\n    \
         directory: \"{}\"\n    pidfile: \"\"\n    use-syslog: no\n    verbosity: 1\n    \
         trust-anchor: \". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\"\n\
         remote-control:\n    control-enable: no\n",
        site.source.path().display()
    );
    let settings = site.settings(&own, &lines_for("unbound"));
    process::run(Command::new(check).arg(&settings)).exits(0);
    let _running = Resolver::start(Command::new(unbound).args(["-d", "-c", &settings]), "start of service");
    site.brings_freshclam_to_5();
}

#[test]
fn the_lines_for_bind_lead_freshclam_here() {
    let (Some(named), Some(check)) = (peer("named"), peer("named-checkconf")) else { return };
    if !namespace::inside("the_lines_for_bind_lead_freshclam_here") {
        return;
    }
    let site = Site::start("127.0.0.1:5353");
    let lines = lines_for("bind");
    let (for_options, lines) = lines.split_once('\n').unwrap();
    let own = format!(
        "options {{\n    directory \"{}\";\n    listen-on port 53 {{ 127.0.0.1; }};\n    \
         listen-on-v6 {{ none; }};\n    pid-file none;\n    dnssec-validation auto;\n{for_options}\n}};\n\
         controls {{}};\n",
        site.source.path().display()
    );
    let settings = site.settings(&own, lines);
    process::run(Command::new(check).arg(&settings)).exits(0);
    let _running = Resolver::start(Command::new(named).args(["-g", "-c", &settings]), " running");
    site.brings_freshclam_to_5();
}
