//! The container's build file and the compose file: what linters can tell of them without building one.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    peer,
    process::{self, Ran},
    program::{Program, bare},
};

fn docker(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/docker").join(name)
}

fn lint(linter: &Path, args: &[&str], file: &Path) -> Ran {
    process::run(Command::new(linter).args(args).arg(file))
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(hadolint) = peer("hadolint") else { return };
    let args = ["--no-color", "--failure-threshold", "style"];
    let ran = lint(&hadolint, &args, &docker("Dockerfile")).exits(0);
    assert_eq!(ran.stdout, "");

    let bad = tempfile::NamedTempFile::new().unwrap();
    let text = fs::read_to_string(docker("Dockerfile")).unwrap();
    fs::write(bad.path(), text.replace("USER 65532:65532", "USER root")).unwrap();
    lint(&hadolint, &args, bad.path()).exits(1).says(["DL3002"]);
}

#[test]
fn the_compose_file_fits_the_specification() {
    let Some(check) = peer("check-jsonschema") else { return };
    let args = ["--builtin-schema", "vendor.compose-spec"];
    lint(&check, &args, &docker("compose.yaml")).exits(0);
    lint(&check, &args, &docker("client-compose.yaml")).exits(0);

    let bad = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let text = fs::read_to_string(docker("compose.yaml")).unwrap();
    fs::write(bad.path(), text.replace("read_only:", "readonly:")).unwrap();
    lint(&check, &args, bad.path()).exits(1).says(["readonly"]);
}

/// What the files for clients run beside clamd, with a mirror that is named in the environment.
#[test]
fn the_sidecars_run_commands_that_there_are() {
    for file in ["docker/client-compose.yaml", "kubernetes/clamd.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file);
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim);
        let lists = lines.filter_map(|line| line.strip_prefix("command: ").or(line.strip_prefix("args: ")));
        let commands: Vec<Vec<String>> = lists.map(|list| serde_json::from_str(list).unwrap()).collect();
        assert_eq!(commands.len(), 2, "{file}");
        for command in commands {
            let mut check = bare();
            check.args(&command).args(["--into", "/nowhere"]).env("CVDMIRROR_FROM", "http://127.0.0.1:1");
            // With the settings right, the directory is what is wrong; one that goes on is told to leave it.
            let once = command.contains(&"--interval".to_owned()).then_some("--once");
            process::run(check.args(once)).exits(1).says(["/nowhere: No such file or directory"]);
        }
    }
}

/// An empty mirror lives, and gets no clients yet.
#[test]
fn the_probes_ask_for_what_the_server_answers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubernetes/mirror.yaml");
    let text = fs::read_to_string(file).unwrap();
    let server = Program::new("http://127.0.0.1:1").serve();
    let probes = text.lines().filter_map(|line| line.split_once("httpGet: { path: ")?.1.split(',').next());
    let answers: Vec<u16> = probes.map(|path| server.get(path).status).collect();
    assert_eq!(answers, [200, 503]);
}

/// The words of an instruction in exec form.
fn exec_form(text: &str, instruction: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(instruction)).unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

#[test]
fn the_container_runs_commands_that_there_are() {
    let text = fs::read_to_string(docker("Dockerfile")).unwrap();
    let [program] = &exec_form(&text, "ENTRYPOINT")[..] else { panic!("{text}") };
    process::run(bare().args(exec_form(&text, "CMD")).arg("--help")).exits(0);
    let health = exec_form(&text, "HEALTHCHECK");
    assert_eq!(&health[0], program);
    // Where there is no server it says so by its exit code, and not because it does not know the option.
    let dir = tempfile::tempdir().unwrap();
    let ran = process::run(bare().args(&health[1..]).arg("--data-dir").arg(dir.path()));
    ran.exits(1).says([dir.path().to_str().unwrap()]);
}
