//! What a file is and which rules it keeps, for people: every check with its result, not only the first that fails.
//!
//! A report is no licence to publish; only `verify` gives that. Both use the same checks.
use super::{
    Anchors, Limits, TrustKeys,
    cdiff::{CdiffError, Frame},
    container::Form,
    header::Header,
    info::Info,
    name::{Database, FileKind, FileName},
    pass::{Content, Pass},
    script::{self, Command},
    sign_verify,
    verify::{VerifyError, check_list, check_signature, parse_sign, read_bounded},
};
use serde::Serialize;
use std::{
    error::Error,
    fmt,
    io::{self, Read},
};

/// What a file is checked with.
pub struct Inspection<'a> {
    /// Keys that sign databases.
    pub keys: &'a TrustKeys,
    /// The bounds.
    pub limits: &'a Limits,
    /// Certificates that sign files must lead to; without them sign files are only parsed.
    pub anchors: Option<&'a Anchors>,
    /// For a sign file the file it signs, if it is at hand.
    pub signed: Option<&'a mut dyn Read>,
    /// The time, epoch seconds.
    pub now_s: u64,
}

/// What a file is, and what was checked.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file's name, without directories.
    pub file: String,
    /// What it is.
    pub kind: Kind,
    /// What it says of itself, as far as it could be read.
    pub facts: Facts,
    /// Every check, in order.
    pub checks: Vec<Check>,
}

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A signed database.
    Cvd,
    /// A database patched by a client.
    Cld,
    /// A patch.
    Cdiff,
    /// A detached signature.
    Sign,
    /// None of these.
    Unknown,
}

/// What a file says of itself.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// Its size in bytes, where it was read to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The version; of a CDIFF the one it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The build time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_time: Option<String>,
    /// The build time, epoch seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stime_s: Option<u64>,
    /// The number of signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signatures: Option<u32>,
    /// The functionality level; of a sign file the lowest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub functionality_level: Option<u32>,
    /// The builder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// How the body is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Names and sizes of the members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<(String, u64)>,
    /// How many commands of each kind a script has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<Commands>,
}

/// How many commands of each kind a script has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Commands {
    /// Members opened.
    pub opened: u64,
    /// Lines added.
    pub added: u64,
    /// Lines deleted.
    pub deleted: u64,
    /// Lines exchanged.
    pub exchanged: u64,
    /// Ranges of lines moved.
    pub moved: u64,
    /// Members removed.
    pub unlinked: u64,
}

/// One rule and whether it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// The rule.
    pub rule: Rule,
    /// Whether it is kept.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Rules; the text of each says what is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is a ClamAV file at all.
    Kind,
    /// Its name says what it holds.
    Name,
    /// The header is well-formed.
    Header,
    /// The body has the header's MD5.
    Md5,
    /// The legacy signature in the header holds.
    HeaderSignature,
    /// The body is a proper archive.
    Body,
    /// The `.info` member is a proper list.
    List,
    /// The `.info` member's signature holds, and was made for this header.
    ListSignature,
    /// Members and list agree.
    Members,
    /// The CDIFF's signature holds.
    CdiffSignature,
    /// The script inflates to its declared size and parses.
    Script,
    /// The sign file is well-formed.
    SignForm,
    /// The sign file vouches for its file, and its signer is trusted.
    SignTrust,
}

/// How a check went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// The rule is kept.
    Passed,
    /// The rule is broken.
    Failed {
        /// How and where.
        why: String,
    },
    /// The rule could not be checked, or does not apply.
    Skipped {
        /// Why not.
        why: String,
    },
}

impl Report {
    /// Says whether nothing was found against the file.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// Checks a file; `file` is its name without directories. Fails only where the file cannot be read.
    pub fn of(file: &str, mut reader: impl Read, inspection: Inspection<'_>) -> io::Result<Self> {
        let mut start = Vec::new();
        (&mut reader).take(16).read_to_end(&mut start)?;
        let kind = match start.as_slice() {
            start if start.starts_with(b"ClamAV-VDB:") && file.ends_with(".cld") => Kind::Cld,
            start if start.starts_with(b"ClamAV-VDB:") => Kind::Cvd,
            start if start.starts_with(b"ClamAV-Diff:") => Kind::Cdiff,
            start if start.starts_with(b"#clamsign") => Kind::Sign,
            [] if file.ends_with(".cdiff") => Kind::Cdiff,
            _ => Kind::Unknown,
        };
        let mut report = Self { file: file.to_owned(), kind, facts: Facts::default(), checks: Vec::new() };
        let whole = io::Cursor::new(start).chain(reader);
        let read = match kind {
            Kind::Cvd | Kind::Cld => report.database(whole, &inspection),
            Kind::Cdiff => report.cdiff(whole, &inspection),
            Kind::Sign => report.sign(whole, inspection),
            Kind::Unknown => {
                report.fail(Rule::Kind, "it starts like no ClamAV file");
                Ok(())
            }
        };
        match read {
            Ok(()) => Ok(report),
            Err(VerifyError::Read(error)) => Err(error),
            Err(other) => {
                report.fail(Rule::Body, other);
                Ok(report)
            }
        }
    }

    fn database(&mut self, reader: impl Read, with: &Inspection<'_>) -> Result<(), VerifyError> {
        let pass = match Pass::over(reader, with.limits, |_| Ok(())) {
            Err(VerifyError::Header(error)) => {
                self.fail(Rule::Header, error);
                return Ok(());
            }
            other => other?,
        };
        let header = &pass.header;
        self.pass(Rule::Header);
        self.facts = Facts {
            bytes: Some(pass.bytes),
            version: Some(header.version),
            build_time: Some(header.build_time.clone()),
            stime_s: Some(header.stime_s),
            signatures: Some(header.signatures),
            functionality_level: Some(header.functionality_level),
            builder: Some(header.builder.clone()),
            ..Facts::default()
        };
        if self.kind == Kind::Cvd {
            match check_signature(header, Some(pass.md5), with.keys) {
                Err(error @ (VerifyError::Md5 | VerifyError::NoMd5)) => {
                    self.fail(Rule::Md5, error);
                    self.skip(Rule::HeaderSignature, "it signs the MD5");
                }
                other => {
                    self.pass(Rule::Md5);
                    self.judge(Rule::HeaderSignature, other);
                }
            }
        } else {
            self.skip(Rule::Md5, "a CLD has none");
            self.skip(Rule::HeaderSignature, "a CLD has none");
        }
        match pass.content {
            Ok(content) => self.content(header, &content, with),
            Err(VerifyError::Read(error)) => return Err(VerifyError::Read(error)),
            Err(error) => self.fail(Rule::Body, error),
        }
        Ok(())
    }

    fn content(&mut self, header: &Header, content: &Content, with: &Inspection<'_>) {
        self.pass(Rule::Body);
        self.facts.form = Some(content.form);
        self.facts.members = content.members.iter().map(|m| (m.name.clone(), m.size)).collect();
        match content.database() {
            Ok(database) => {
                self.name(Some(&database), header.version);
                self.facts.database = Some(database.to_string());
            }
            Err(error) => self.fail(Rule::Name, error),
        }
        let info = match Info::parse(&content.info) {
            Ok(info) => info,
            Err(error) => {
                self.fail(Rule::List, error);
                self.skip(Rule::ListSignature, "the list cannot be read");
                self.skip(Rule::Members, "the list cannot be read");
                return;
            }
        };
        self.pass(Rule::List);
        self.judge(Rule::ListSignature, check_list(header, &info, with.keys));
        let before = self.checks.len();
        for difference in content.differences(&info) {
            self.fail(Rule::Members, difference);
        }
        if self.checks.len() == before {
            self.pass(Rule::Members);
        }
    }

    fn cdiff(&mut self, reader: impl Read, with: &Inspection<'_>) -> Result<(), VerifyError> {
        let bytes = read_bounded(reader, with.limits.max_cdiff_bytes)?;
        self.facts.bytes = Some(bytes.len() as u64);
        if bytes.is_empty() {
            self.skip(Rule::CdiffSignature, "it is empty, which means: take the full CVD");
            return Ok(());
        }
        let frame = match Frame::parse(&bytes) {
            Ok(frame) => frame,
            Err(CdiffError::NoSignature) => {
                self.fail(Rule::CdiffSignature, CdiffError::NoSignature);
                return Ok(());
            }
            Err(error) => {
                self.fail(Rule::Header, error);
                return Ok(());
            }
        };
        self.pass(Rule::Header);
        self.facts.version = Some(frame.version);
        self.name(None, frame.version);
        if let Err(error) = frame.verify(&with.keys.cdiff) {
            self.fail(Rule::CdiffSignature, error);
            self.skip(Rule::Script, "nothing unsigned is inflated");
            return Ok(());
        }
        self.pass(Rule::CdiffSignature);
        match frame.open(with.limits) {
            Ok(patch) => {
                self.facts.commands = Some(count(&patch.script));
                self.pass(Rule::Script);
            }
            Err(error) => self.fail(Rule::Script, error),
        }
        Ok(())
    }

    fn sign(&mut self, reader: impl Read, with: Inspection<'_>) -> Result<(), VerifyError> {
        let sign = match parse_sign(reader, with.limits) {
            Err(VerifyError::Sign(error)) => {
                self.fail(Rule::SignForm, error);
                return Ok(());
            }
            other => other?,
        };
        self.pass(Rule::SignForm);
        self.facts.functionality_level =
            sign.signatures.iter().filter_map(|signature| signature.min_level).min();
        match (with.anchors, with.signed) {
            (None, _) => self.skip(Rule::SignTrust, "no certificates are configured"),
            (_, None) => self.skip(Rule::SignTrust, "the signed file is not beside it"),
            (Some(anchors), Some(signed)) => {
                self.judge(Rule::SignTrust, sign_verify::check(&sign, signed, anchors, with.now_s));
            }
        }
        Ok(())
    }

    /// Compares the file's name with what it holds; what has no such name is not held to it.
    fn name(&mut self, database: Option<&Database>, version: u32) {
        let stem = self.file.split(['-', '.']).next().unwrap_or_default();
        let versioned: Option<FileName> = self.file.parse().ok();
        let kind = if self.kind == Kind::Cdiff { FileKind::Cdiff } else { FileKind::Cvd };
        match (stem.parse::<Database>(), database) {
            (Ok(expected), Some(found)) if expected != *found => {
                self.fail(Rule::Name, VerifyError::Database { expected, found: found.clone() });
            }
            _ => match versioned {
                Some(name) if name.kind != kind => self.fail(Rule::Name, VerifyError::Kind(name)),
                Some(name) if name.version != version => {
                    self.fail(Rule::Name, VerifyError::Version { expected: name.version, found: version });
                }
                Some(_) => self.pass(Rule::Name),
                None if database.is_some() => self.pass(Rule::Name),
                None => self.skip(Rule::Name, "the name tells no version"),
            },
        }
    }

    fn pass(&mut self, rule: Rule) {
        self.checks.push(Check { rule, outcome: Outcome::Passed });
    }
    fn skip(&mut self, rule: Rule, why: &str) {
        self.checks.push(Check { rule, outcome: Outcome::Skipped { why: why.to_owned() } });
    }
    fn fail(&mut self, rule: Rule, why: impl fmt::Display) {
        self.checks.push(Check { rule, outcome: Outcome::Failed { why: why.to_string() } });
    }
    fn judge<E: Error>(&mut self, rule: Rule, result: Result<(), E>) {
        match result {
            Ok(()) => self.pass(rule),
            Err(error) => self.fail(rule, error),
        }
    }
}

fn count(script: &[u8]) -> Commands {
    let mut commands = Commands::default();
    for (_, command) in script::commands(script).flatten() {
        let counter = match command {
            Command::Open(_) => &mut commands.opened,
            Command::Add(_) => &mut commands.added,
            Command::Delete { .. } => &mut commands.deleted,
            Command::Exchange { .. } => &mut commands.exchanged,
            Command::Move { .. } => &mut commands.moved,
            Command::Unlink(_) => &mut commands.unlinked,
            Command::Comment | Command::Close => continue,
        };
        *counter += 1;
    }
    commands
}

/// The report as text, a line a check.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Cvd => "CVD, a signed database",
            Kind::Cld => "CLD, a database patched by a client",
            Kind::Cdiff => "CDIFF, a patch",
            Kind::Sign => "sign file, a detached signature",
            Kind::Unknown => "no ClamAV file",
        };
        write!(f, "{}: {kind}", self.file)?;
        if let Some(version) = self.facts.version {
            write!(f, ", version {version}")?;
        }
        if let (Some(signatures), Some(time)) = (self.facts.signatures, &self.facts.build_time) {
            write!(f, ", {signatures} signatures, built {time}")?;
        }
        for Check { rule, outcome } in &self.checks {
            match outcome {
                Outcome::Passed => write!(f, "\n  ok       {rule}")?,
                Outcome::Failed { why } => write!(f, "\n  FAILED   {rule}: {why}")?,
                Outcome::Skipped { why } => write!(f, "\n  skipped  {rule}: {why}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "kind of file",
            Self::Name => "name and content agree",
            Self::Header => "header is well-formed",
            Self::Md5 => "body has the header's MD5",
            Self::HeaderSignature => "signature in the header",
            Self::Body => "body is a proper archive",
            Self::List => ".info is a proper list",
            Self::ListSignature => "signature of .info, made for this header",
            Self::Members => "members and .info agree",
            Self::CdiffSignature => "signature of the CDIFF",
            Self::Script => "script has its declared size and parses",
            Self::SignForm => "sign file is well-formed",
            Self::SignTrust => "sign file vouches for its file",
        })
    }
}
