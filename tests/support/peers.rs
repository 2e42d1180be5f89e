//! ClamAV's own tools, to compare with: as they are, or trusting the mint's keys instead of Talos'.
pub use super::peer;
use super::{mint_keys::keys, program::script, skip};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The installed tools with copies of their libraries in which the trusted moduli are the mint's: the same code,
/// another root of trust, so that it judges minted files to the end.
pub struct Peers {
    libraries: TempDir,
}

impl Peers {
    pub fn with_mint_keys() -> Option<Self> {
        let (freshclam, _sigtool) = (peer("freshclam")?, peer("sigtool")?);
        let libraries = TempDir::new().unwrap();
        let output = Command::new("ldd").arg(freshclam).output().ok()?;
        let mut replaced = 0;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some((name, path)) = line.trim().split_once(" => ") else { continue };
            if !name.starts_with("libclamav.") && !name.starts_with("libfreshclam.") {
                continue;
            }
            let mut library = fs::read(path.split(' ').next().unwrap()).unwrap();
            for (talos, minted) in keys().moduli_for_talos() {
                let minted = format!("{minted:0>width$}", width = talos.len());
                let places: Vec<usize> = memchr::memmem::find_iter(&library, &talos).collect();
                for place in places {
                    library[place..place + minted.len()].copy_from_slice(minted.as_bytes());
                    replaced += 1;
                }
            }
            fs::write(libraries.path().join(name), library).unwrap();
        }
        // One of each key: a ClamAV that keeps them otherwise cannot be a peer in this way.
        if replaced != 3 {
            skip("ClamAV's libraries do not hold their keys as decimal text");
            return None;
        }
        Some(Self { libraries })
    }

    /// Where the copies are, for `LD_LIBRARY_PATH`.
    pub fn libraries(&self) -> &Path {
        self.libraries.path()
    }

    /// A program in `dir` that is another one with these libraries, for who runs it in an environment of its own.
    pub fn script(&self, dir: &Path, program: &Path) -> PathBuf {
        let (libraries, name) = (self.libraries().display(), program.file_name().unwrap().to_str().unwrap());
        let text = format!("#!/bin/sh\nexec env LD_LIBRARY_PATH={libraries} {} \"$@\"\n", program.display());
        script(dir, name, &text)
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }
}
