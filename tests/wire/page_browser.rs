//! The status page in a real browser: on a phone and on a desk, light and dark, checked for accessibility by axe.
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use support::page_scenes::Scene;

/// The checker, at one version: a newer one may have other rules.
const AXE: &str = "axe-core@4.14.1";

/// What the browser saw.
#[derive(Deserialize, Debug)]
struct Seen {
    title: String,
    scripts: usize,
    /// Pixels by which the page is wider than its window.
    wide: i64,
    /// Rules of axe that passed.
    rules: usize,
    violations: Vec<serde_json::Value>,
    /// What the browser complained of.
    said: Vec<String>,
    /// How often the page was loaded again although that was off.
    reloads_off: Option<u32>,
}

#[test]
fn a_browser_shows_it_whole_and_accessible() {
    let (Some(chromium), Some(node), Some(axe)) = (support::peer("chromium"), support::peer("node"), axe())
    else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let shots =
        std::env::var_os("CVDMIRROR_SCREENSHOTS").map_or_else(|| dir.path().join("shots"), PathBuf::from);
    std::fs::create_dir_all(&shots).unwrap();
    let mut jobs = Vec::new();
    for scene in [Scene::fresh, Scene::stale, Scene::troubled, Scene::many, Scene::filling, Scene::empty] {
        let home = dir.path().join(jobs.len().to_string());
        for name in ["store", "tmp"] {
            std::fs::create_dir_all(home.join(name)).unwrap();
        }
        let scene = scene(&home);
        let name = scene.name;
        let address = runtime.block_on(scene.serve());
        for (width, dark) in [(360, true), (400, false), (1000, false), (1280, true)] {
            let shade = if dark { "dark" } else { "light" };
            let shot = shots.join(format!("{name}-{width}-{shade}.png"));
            jobs.push(serde_json::json!({ "url": format!("http://{address}/"), "width": width, "dark": dark, "shot": shot }));
        }
    }
    let seen = look(&node, &chromium, &axe, dir.path(), &jobs);
    assert_eq!(seen.len(), jobs.len());
    assert_eq!(seen.last().unwrap().reloads_off, Some(0));
    for (seen, job) in seen.iter().zip(&jobs) {
        assert!(seen.violations.is_empty(), "{job}: {:#?}", seen.violations);
        assert!(seen.rules > 20, "{job}: axe looked at {} rules only", seen.rules);
        assert!(seen.wide <= 0, "{job}: {} px wider than the window", seen.wide);
        assert!(seen.said.is_empty(), "{job}: {:?}", seen.said);
        assert_eq!(seen.scripts, 1, "{job}");
        assert!(seen.title.ends_with(" · cvdmirror"), "{job}: {}", seen.title);
        assert!(std::fs::metadata(job["shot"].as_str().unwrap()).unwrap().len() > 10_000, "{job}");
    }
}

fn look(node: &Path, chromium: &Path, axe: &Path, dir: &Path, jobs: &[serde_json::Value]) -> Vec<Seen> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/browser.mjs");
    let input = dir.join("jobs.json");
    std::fs::write(&input, serde_json::to_vec(jobs).unwrap()).unwrap();
    let mut command = Command::new(node);
    command.arg(script).arg(chromium).arg(axe).arg(dir.join("profile")).arg(input);
    let ran = support::process::run(&mut command).exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// The checker's script, fetched once into the build directory.
fn axe() -> Option<PathBuf> {
    let npm = support::peer("npm")?;
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(AXE.replace('@', "-"));
    let script = prefix.join("node_modules/axe-core/axe.min.js");
    if !script.exists() {
        std::fs::create_dir_all(&prefix).unwrap();
        let mut command = Command::new(npm);
        command.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
        let ran = support::process::run(command.arg(&prefix).arg(AXE));
        if ran.code != Some(0) {
            support::skip(&format!("npm cannot install {AXE}: {ran}"));
            return None;
        }
    }
    Some(script)
}
