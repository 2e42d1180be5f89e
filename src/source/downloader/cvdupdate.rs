//! cvdupdate: its own configuration and state, and one run of it.
use super::{
    Fault, Setup, Tool,
    files::{directory, give, user, write},
    process::{Ended, Job},
};
use crate::cvd::txt_record::CurrentRecord;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Larger than any state of it, bytes.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// Its directory, with a configuration written anew. Its state stays its own, but for whom it asks.
pub(super) fn prepare(dir: &Path, setup: &Setup) -> Result<(), Fault> {
    for path in [dir, &dir.join("db"), &dir.join("log")] {
        directory(path)?;
    }
    let mut config = json!({
        "db directory": dir.join("db"), "log directory": dir.join("log"), "state file": dir.join("state.json"),
        "max retry": 1, "# cdiffs to keep": 30, "rotate cdiffs": true, "rotate logs": true, "# logs to keep": 2,
    });
    if let Some(nameserver) = setup.nameserver {
        config["nameserver"] = nameserver.ip().to_string().into();
    }
    let (path, state) = (dir.join("config.json"), dir.join("state.json"));
    write(&path, config.to_string().as_bytes())?;
    write(&state, with_urls(read(&state), setup).to_string().as_bytes())
}

/// Its state, where it can be read.
fn read(path: &Path) -> Option<Value> {
    fs::symlink_metadata(path).ok().filter(|meta| meta.is_file() && meta.len() <= MAX_STATE_BYTES)?;
    let state: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (state["uuid"].is_string() && state["dbs"].is_object()).then_some(state)
}

/// The state in which it asks the upstream for each database that is mirrored, and for no other.
fn with_urls(state: Option<Value>, setup: &Setup) -> Value {
    let mut state = state.unwrap_or_else(|| json!({ "uuid": uuid(), "dbs": {} }));
    let known = std::mem::take(&mut state["dbs"]);
    for database in &setup.databases {
        let file = format!("{database}.cvd");
        let mut entry = known[&file].clone();
        if !entry.is_object() {
            entry = json!({ "retry after": 0, "last modified": 0, "last checked": 0, "local version": 0, "CDIFFs": [] });
        }
        let base = setup.upstream.as_str().trim_end_matches('/');
        entry["url"] = format!("{base}/{file}").into();
        entry["DNS field"] = CurrentRecord::field_of(database).unwrap_or_default().into();
        state["dbs"][file] = entry;
    }
    state
}

fn uuid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// Runs it once.
pub(super) async fn run(dir: &Path, program: &Path, setup: &Setup) -> Result<(), Fault> {
    let tool = Tool::Cvdupdate;
    let user = user(setup, dir)?;
    if let Some(ids) = user {
        // It writes beside its configuration.
        [dir, &dir.join("db"), &dir.join("log")].into_iter().try_for_each(|path| give(path, ids))?;
    }
    let args = vec!["update".into(), "-c".into(), dir.join("config.json").into()];
    let ended = Job { tool, program, args, dir, user, timeout: setup.timeout }.run().await?;
    let words = ended.words();
    match ended {
        Ended { code: Some(0), .. } => Ok(()),
        Ended { code, .. } => Err(Fault::Failed { tool, code, words }),
    }
}
