//! `cvdmirror store …`: inspects and maintains the packs, also while a server runs.
mod backup;
mod cat;
mod gc;
mod ls;
mod restore;
mod stat;
mod verify;

use super::{Failure, Outcome, Ui, readable, runtime};
use crate::{
    clock::Clock,
    config::Config,
    control,
    mirror::{
        DataDir, Verifier,
        look::Look,
        verify::{anchors_in, site_in},
    },
    trouble::Trouble,
};
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub(super) enum StoreCommand {
    /// Lists the names held: name, version, size, hash, when it was stored, from where, how it was verified
    Ls(ls::Options),
    /// Counts objects, bytes and packs; shows chains and gaps
    Stat {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes a file to standard output, by its name, hash, or the start of its hash
    Cat {
        /// A versioned name, an alias (the newest full CVD), or at least 6 hex digits of a hash
        what: String,
    },
    /// Checks every pack, object, name and signature; exit 1 on any finding
    Verify {
        /// Checks every object and member again, even of files that have not changed since they were verified
        #[arg(long)]
        deep: bool,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Drops what need not be kept any longer and merges small packs
    Gc {
        /// Says what would go, and changes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Links or copies every pack that is not yet there
    Backup {
        /// A directory
        dest: PathBuf,
    },
    /// Verifies the packs of a backup and adds those that are missing
    Restore {
        /// A directory of packs, or a data directory
        src: PathBuf,
    },
}

pub(super) fn run(config: &Config, ui: Ui, command: StoreCommand) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let look = || -> Result<Look, Failure> {
        readable(&dir)?;
        let known = runtime()?.block_on(control::known_packs(&dir));
        Ok(Look::at(&dir, known)?)
    };
    match command {
        StoreCommand::Ls(options) => {
            let look = look()?;
            let listed = ls::run(&look.view, &options);
            // The process ends here: giving a hundred thousand names back one by one would take as long as printing them.
            std::mem::forget(look);
            listed
        }
        StoreCommand::Stat { json } => stat::run(&look()?, json),
        StoreCommand::Cat { what } => cat::run(&look()?.view, &what),
        StoreCommand::Verify { deep, json } => verify::run(config, ui, &look()?, deep, json),
        StoreCommand::Gc { dry_run } => gc::run(config, ui, dry_run),
        StoreCommand::Backup { dest } => backup::run(config, ui, &dest),
        StoreCommand::Restore { src } => restore::run(config, ui, &src),
    }
}

/// The verifier that the settings describe.
fn verifier(config: &Config) -> Result<Verifier, Failure> {
    let anchors = config.certs_dir.as_deref().map(anchors_in).transpose();
    Ok(Verifier {
        keys: config.trust_keys.clone(),
        limits: crate::cvd::Limits::default(),
        anchors: anchors.map_err(|e| Failure::Usage(Trouble::from(&e).to_string()))?,
        site: site_in(config.site_ca.as_deref(), &config.trust_keys),
        clock: Clock::system(),
    })
}
