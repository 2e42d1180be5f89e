//! What a file is and which rules it keeps, for people: every check with its result, not only the first failure.
//!
//! A pass here does not publish a file: only `verify` decides that, with the same checks.
use super::{
    cdiff::{CdiffError, Frame},
    chain::Anchors,
    container::Form,
    error::VerifyError,
    header::Header,
    info::Info,
    limits::Limits,
    name::{Database, FileKind, FileName},
    pass::{Content, Opened, read_bounded},
    script::{self, Command},
    sign_verify,
    signature::TrustKeys,
    verify::{check_header, check_signature, parse_sign},
};
use serde::Serialize;
use std::{
    error::Error,
    fmt,
    io::{self, Read},
};

/// What a file is checked with.
pub struct Inspector<'a> {
    /// Keys that sign databases.
    pub keys: &'a TrustKeys,
    /// What the file may cost.
    pub limits: &'a Limits,
    /// Certificates that sign files must lead to; without them any signer passes.
    pub anchors: Option<&'a Anchors>,
    /// For a sign file the file it signs, if it is at hand.
    pub signed: Option<&'a mut dyn Read>,
    /// The time, epoch seconds.
    pub now_s: u64,
}

/// What a file is, and which rules it keeps; as JSON it is what `verify --json` prints.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The file's name, without directories.
    pub file: String,
    /// What its first bytes and its name say it is.
    pub kind: Format,
    /// Its facts, as far as they could be read.
    pub facts: Facts,
    /// Every check, in order.
    pub checks: Vec<Verdict>,
}

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "its text says what each is")]
pub enum Format {
    Cvd,
    Cld,
    Cdiff,
    Sign,
    Unknown,
}

/// The facts that a file states; none of them need be true.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// Its size in bytes, where it was read to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The database, after which its `.info` member is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The version; of a CDIFF the one it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The build time, as the header writes it.
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
    /// The name of who built it.
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
pub struct Verdict {
    /// What was checked.
    pub rule: Rule,
    /// How that went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the text of each says what is checked")]
pub enum Rule {
    Kind,
    Name,
    Header,
    Md5,
    HeaderSignature,
    Body,
    List,
    ListSignature,
    Members,
    CdiffSignature,
    Script,
    SignForm,
    SignDigest,
    SignTrust,
}

/// How a check went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the variants say what `why` is")]
pub enum Outcome {
    /// The rule is kept.
    Passed,
    /// The rule is broken: how and where.
    Failed { why: String },
    /// The rule could not be checked, or does not apply: why not.
    Skipped { why: String },
}

impl Inspector<'_> {
    /// Checks a file; `file` is its name without directories. Fails only where the file cannot be read.
    pub fn inspect(self, file: &str, mut reader: impl Read) -> io::Result<Inspection> {
        let mut start = Vec::new();
        (&mut reader).take(16).read_to_end(&mut start)?;
        let kind = match start.as_slice() {
            start if start.starts_with(b"ClamAV-VDB:") && file.ends_with(".cld") => Format::Cld,
            start if start.starts_with(b"ClamAV-VDB:") => Format::Cvd,
            start if start.starts_with(b"ClamAV-Diff:") => Format::Cdiff,
            start if start.starts_with(b"#clamsign") => Format::Sign,
            [] if file.ends_with(".cdiff") => Format::Cdiff,
            _ => Format::Unknown,
        };
        let facts = Facts::default();
        let mut found = Inspection { file: file.to_owned(), kind, facts, checks: Vec::new() };
        let whole = io::Cursor::new(start).chain(reader);
        let read = match kind {
            Format::Cvd | Format::Cld => found.database(whole, &self),
            Format::Cdiff => found.cdiff(whole, &self),
            Format::Sign => found.sign(whole, self),
            Format::Unknown => {
                found.fail(Rule::Kind, "it starts like no ClamAV file");
                Ok(())
            }
        };
        match read {
            Ok(()) => {}
            Err(VerifyError::Read(error)) => return Err(error),
            Err(other) => found.fail(Rule::Body, other),
        }
        Ok(found)
    }
}

impl Inspection {
    /// Whether no rule is broken.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    fn database(&mut self, reader: impl Read, with: &Inspector<'_>) -> Result<(), VerifyError> {
        let pass = match Opened::new(reader, with.limits) {
            Err(VerifyError::Header(error)) => {
                self.fail(Rule::Header, error);
                return Ok(());
            }
            other => other?.read()?,
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
        if self.kind == Format::Cvd {
            match check_signature(header, pass.md5, with.keys) {
                Err(error @ (VerifyError::Md5 | VerifyError::NoMd5)) => {
                    self.fail(Rule::Md5, error);
                    self.skip(Rule::HeaderSignature, "it signs the MD5");
                }
                other => {
                    self.pass(Rule::Md5);
                    self.check(Rule::HeaderSignature, other);
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

    fn content(&mut self, header: &Header, content: &Content, with: &Inspector<'_>) {
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
        let signed = info.verify(&with.keys.info).map_err(VerifyError::InfoSignature);
        self.check(Rule::ListSignature, signed.and_then(|()| check_header(header, &info)));
        let before = self.checks.len();
        for difference in content.differences(&info) {
            self.fail(Rule::Members, difference);
        }
        if self.checks.len() == before {
            self.pass(Rule::Members);
        }
    }

    fn cdiff(&mut self, reader: impl Read, with: &Inspector<'_>) -> Result<(), VerifyError> {
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

    fn sign(&mut self, reader: impl Read, with: Inspector<'_>) -> Result<(), VerifyError> {
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
        let Some(signed) = with.signed else {
            self.skip(Rule::SignDigest, "the signed file is not beside it");
            self.skip(Rule::SignTrust, "the signed file is not beside it");
            return Ok(());
        };
        match (sign_verify::check_signed(&sign, signed), with.anchors) {
            (Err(error), _) => {
                self.fail(Rule::SignDigest, error);
                self.skip(Rule::SignTrust, "no signature that holds");
            }
            (Ok(_), None) => {
                self.pass(Rule::SignDigest);
                self.skip(Rule::SignTrust, "no certificates are configured");
            }
            (Ok(signers), Some(anchors)) => {
                self.pass(Rule::SignDigest);
                self.check(Rule::SignTrust, signers.check_chains(anchors, with.now_s));
            }
        }
        Ok(())
    }

    /// Compares the file's name with its content; a name without a version is not compared.
    fn name(&mut self, database: Option<&Database>, version: u32) {
        let stem = self.file.split(['-', '.']).next().unwrap_or_default();
        let versioned: Option<FileName> = self.file.parse().ok();
        let kind = if self.kind == Format::Cdiff { FileKind::Cdiff } else { FileKind::Cvd };
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
        self.checks.push(Verdict { rule, outcome: Outcome::Passed });
    }
    fn skip(&mut self, rule: Rule, why: &str) {
        self.checks.push(Verdict { rule, outcome: Outcome::Skipped { why: why.to_owned() } });
    }
    fn fail(&mut self, rule: Rule, why: impl fmt::Display) {
        self.checks.push(Verdict { rule, outcome: Outcome::Failed { why: why.to_string() } });
    }
    fn check<E: Error>(&mut self, rule: Rule, result: Result<(), E>) {
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

/// As text, a line a check.
impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Format::Cvd => "CVD, a signed database",
            Format::Cld => "CLD, a database patched by a client",
            Format::Cdiff => "CDIFF, a patch",
            Format::Sign => "sign file, a detached signature",
            Format::Unknown => "no ClamAV file",
        };
        write!(f, "{}: {kind}", self.file)?;
        if let Some(version) = self.facts.version {
            write!(f, ", version {version}")?;
        }
        if let (Some(signatures), Some(time)) = (self.facts.signatures, &self.facts.build_time) {
            let plural = if signatures == 1 { "" } else { "s" };
            write!(f, ", {signatures} signature{plural}, built {time}")?;
        }
        for Verdict { rule, outcome } in &self.checks {
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
            Self::SignDigest => "sign file signs this file",
            Self::SignTrust => "signer is trusted",
        })
    }
}
