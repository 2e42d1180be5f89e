//! A mint of ClamAV databases with keys of its own: any size, successive versions, the CDIFFs between them.
//!
//! A lineage edits its lines itself and writes down what it did, so its CVDs are an oracle for code that applies its
//! CDIFFs.
use super::{
    mint_keys::{Keys, keys},
    mint_sign::signer,
};
use cvdmirror::cvd::{FileKind, FileName, HEADER_BYTES, Header, TrustKeys, body_writer::BodyWriter};
use md5::{Digest as _, Md5};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use sha2::Sha256;
use std::{fmt::Write as _, io::Write as _, sync::OnceLock};

/// Where the first version's clock stands: 2026-11-01.
const EPOCH_S: u64 = 1_793_491_200;
const COPYING: &str = "A minted database for tests. It holds no real signature and protects nobody.\n";
/// Every kind of member that a lineage starts with, and its part of all lines.
const KINDS: [(&str, f64); 9] = [
    ("hdb", 0.15),
    ("hsb", 0.14),
    ("ldb", 0.12),
    ("ndb", 0.12),
    ("mdb", 0.15),
    ("msb", 0.02),
    ("fp", 0.02),
    ("cdb", 0.26),
    ("ign2", 0.02),
];

/// Makes lineages of databases.
pub struct Mint {
    seed: u64,
    keys: &'static Keys,
}

/// One database and its successive versions.
pub struct Lineage {
    database: String,
    keys: &'static Keys,
    rng: StdRng,
    version: u32,
    members: Vec<Text>,
    /// The last version's `.info`, line by line; empty before the first.
    info: Vec<String>,
    edits: usize,
    /// What the next version adds to the member of marks.
    marks: Vec<String>,
    unspoil: bool,
}

/// A member, line by line without newlines.
struct Text {
    name: String,
    lines: Vec<String>,
}

/// One version, as it is published.
pub struct Release {
    pub version: u32,
    pub stime_s: u64,
    pub cvd: Vec<u8>,
    /// From the version before; none for the first.
    pub cdiff: Option<Vec<u8>>,
    /// The CDIFF's script.
    pub script: Option<Vec<u8>>,
    pub cvd_sign: Option<Vec<u8>>,
    pub cdiff_sign: Option<Vec<u8>>,
    database: String,
}

impl Mint {
    /// The same seed mints the same bytes; the keys are the same for all seeds.
    pub fn new(seed: u64) -> Self {
        Self { seed, keys: keys() }
    }
    /// One whose keys nobody trusts: neither Talos' nor those of the other mints.
    pub fn foreign(seed: u64) -> Self {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        Self { seed, keys: KEYS.get_or_init(|| Keys::generate(2)) }
    }
    pub fn keys(&self) -> TrustKeys {
        self.keys.public()
    }
    /// The public keys as the configuration takes them.
    pub fn keys_toml(&self) -> String {
        self.keys.toml()
    }
    /// The root that the sign files' signer leads to, PEM; a new one in every process.
    pub fn certs_pem(&self) -> &'static str {
        &signer().root_pem
    }
    /// A small database of about 500 lines, 10 edits a version.
    pub fn database(&self, name: &str) -> Lineage {
        self.database_of(name, 500, 10)
    }
    /// A database of about so many lines (about 85 bytes each), and so many edits a version.
    pub fn database_of(&self, name: &str, lines: usize, edits: usize) -> Lineage {
        let mut rng =
            StdRng::seed_from_u64(self.seed ^ name.bytes().fold(0, |sum, b| sum * 31 + u64::from(b)));
        let members = KINDS
            .iter()
            .map(|(kind, part)| Text {
                name: format!("{name}.{kind}"),
                lines: (0..((lines as f64 * part) as usize).max(3)).map(|_| line(kind, &mut rng)).collect(),
            })
            .collect();
        Lineage {
            database: name.into(),
            keys: self.keys,
            rng,
            version: 0,
            members,
            info: Vec::new(),
            edits,
            marks: Vec::new(),
            unspoil: false,
        }
    }
}

impl Release {
    pub fn cvd_name(&self) -> FileName {
        FileName::new(&self.database.parse().unwrap(), self.version, FileKind::Cvd)
    }
    pub fn cdiff_name(&self) -> FileName {
        FileName::new(&self.database.parse().unwrap(), self.version, FileKind::Cdiff)
    }
}

/// A signature that cannot be: its hash is none.
const SPOILT: &str = "nohash:68:Spoilt:73";
/// The member that holds marks; no edit at random touches it.
const MARKS: &str = "marks.hsb";

impl Lineage {
    /// Has the next version, and all after it, find files of exactly this content under this name.
    pub fn mark(&mut self, name: &str, content: &[u8]) {
        let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        self.marks.push(format!("{sha256}:{}:{name}:73", content.len()));
    }

    /// Has the next versions hold a line that no engine can load.
    pub fn spoil(&mut self) {
        self.marks.push(SPOILT.into());
    }

    /// Has the next version hold no such line any more.
    pub fn unspoil(&mut self) {
        self.unspoil = true;
    }

    /// Adds the marks to their member, and appends to `script` how.
    fn add_marks(&mut self, script: &mut String) {
        let spoilt = self.members.iter().position(|member| member.name == MARKS).and_then(|place| {
            let lines = &self.members[place].lines;
            Some((place, lines.iter().position(|line| line == SPOILT).filter(|_| self.unspoil)?))
        });
        self.unspoil = false;
        if self.marks.is_empty() && spoilt.is_none() {
            return;
        }
        writeln!(script, "OPEN {MARKS}").unwrap();
        if let Some((place, line)) = spoilt {
            writeln!(script, "DEL {} {}", line + 1, prefix(SPOILT)).unwrap();
            self.members[place].lines.remove(line);
        }
        if !self.members.iter().any(|member| member.name == MARKS) {
            self.members.push(Text { name: MARKS.into(), lines: Vec::new() });
        }
        let member = self.members.iter_mut().find(|member| member.name == MARKS).unwrap();
        for line in self.marks.drain(..) {
            writeln!(script, "ADD {line}").unwrap();
            member.lines.push(line);
        }
        script.push_str("CLOSE\n");
    }

    /// Publishes the next version.
    pub fn publish(&mut self) -> Release {
        self.version += 1;
        let first = self.version == 1;
        let mut edits = String::new();
        if !first {
            self.edit(&mut edits);
        }
        self.add_marks(&mut edits);
        let stime_s = EPOCH_S + u64::from(self.version) * 3600;
        let time = jiff::Timestamp::from_second(stime_s as i64).unwrap();
        let signatures = self.members.iter().map(|member| member.lines.len()).sum::<usize>();
        let header = Header {
            build_time: time.strftime("%d %b %Y %H-%M +0000").to_string(),
            version: self.version,
            signatures: signatures as u32,
            functionality_level: 90,
            md5: None,
            dsig: None,
            builder: "mint".into(),
            stime_s,
        };
        // ClamAV 1.4 refuses a CVD whose MD5 begins with a zero byte. The list's signature is salted, so that
        // another try gives another body.
        let (info, cvd) = loop {
            let info = self.list(&header);
            let cvd = self.pack(header.clone(), &info);
            if Header::parse(&cvd[..HEADER_BYTES]).unwrap().md5.unwrap()[0] != 0 {
                break (info, cvd);
            }
        };
        let script = (!first)
            .then(|| [script_of(&format!("{}.info", self.database), &self.info, &info), edits].concat());
        self.info = info;
        let cdiff = script.as_ref().map(|script| self.diff(script.as_bytes()));
        Release {
            version: self.version,
            stime_s,
            script: script.map(String::into_bytes),
            cvd_sign: Some(signer().sign(&cvd)),
            cdiff_sign: cdiff.as_ref().map(|cdiff| signer().sign(cdiff)),
            cvd,
            cdiff,
            database: self.database.clone(),
        }
    }

    /// A validly signed CDIFF with any script, to the version just published.
    pub fn diff(&mut self, script: &[u8]) -> Vec<u8> {
        let mut gzip = Vec::new();
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::best());
        encoder.write_all(script).unwrap();
        encoder.finish().unwrap();
        let mut bytes =
            [format!("ClamAV-Diff:{}:{}:", self.version, script.len()).as_bytes(), &gzip].concat();
        let signature = self.keys.cdiff.sign_pss(&bytes, &mut self.rng);
        bytes.extend([":", &signature].concat().into_bytes());
        bytes
    }

    /// The `.info` of the present members, signed.
    fn list(&mut self, header: &Header) -> Vec<String> {
        let mut lines = vec![header.to_string()];
        for member in &self.members {
            let content = member.content();
            let hash: String = Sha256::digest(&content).iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            lines.push(format!("{}:{}:{hash}", member.name, content.len()));
        }
        let signed = joined(&lines);
        lines.push(format!("DSIG:{}", self.keys.info.sign_pss(signed.as_bytes(), &mut self.rng)));
        lines
    }

    /// The last version as a CUD, the unsigned kind, which ClamAV's tools read without trusting its keys.
    pub fn unsigned(&self) -> Vec<u8> {
        let (_dsig, list) = self.info.split_last().unwrap();
        self.pack(Header::parse_line(&list[0]).unwrap(), list)
    }

    /// A validly signed header for the last version's members in a body that zlib would pack otherwise.
    pub fn repacked_header(&self) -> Vec<u8> {
        let header = Header::parse_line(&self.info[0]).unwrap();
        seal(header, b"other bytes".to_vec(), self.keys)[..HEADER_BYTES].to_vec()
    }

    fn pack(&self, header: Header, list: &[String]) -> Vec<u8> {
        let mut body = BodyWriter::new(Vec::new()).unwrap();
        let mut member = |name: &str, content: &str| {
            body.member(name, content.len() as u64).unwrap();
            body.write_all(content.as_bytes()).unwrap();
        };
        member("COPYING", COPYING);
        member(&format!("{}.info", self.database), &joined(list));
        for text in &self.members {
            member(&text.name, &text.content());
        }
        seal(header, body.finish().unwrap(), self.keys)
    }

    /// Edits the members at random, and appends to `script` what it did.
    fn edit(&mut self, script: &mut String) {
        let rng = &mut self.rng;
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if member.name == MARKS {
                continue;
            }
            let kind = member.name.rsplit('.').next().unwrap().to_owned();
            let share = self.edits.div_ceil(KINDS.len());
            // Half of the edits append; the others need distinct lines, and never empty a member.
            let added: Vec<String> = (0..rng.random_range(0..=share)).map(|_| line(&kind, rng)).collect();
            let touched = (share - added.len()).min(member.lines.len() / 2);
            let mut numbers = rand::seq::index::sample(rng, member.lines.len(), touched).into_vec();
            if added.is_empty() && numbers.is_empty() {
                continue;
            }
            numbers.shuffle(rng);
            writeln!(script, "OPEN {}", member.name).unwrap();
            let mut deleted = Vec::new();
            for number in numbers {
                let old = prefix(&member.lines[number]);
                if rng.random() {
                    writeln!(script, "DEL {} {old}", number + 1).unwrap();
                    deleted.push(number);
                } else {
                    let new = line(&kind, rng);
                    writeln!(script, "XCHG {} {old} {new}", number + 1).unwrap();
                    member.lines[number] = new;
                }
            }
            let mut number = 0..;
            member.lines.retain(|_| !deleted.contains(&number.next().unwrap()));
            for line in added {
                writeln!(script, "ADD {line}").unwrap();
                member.lines.push(line);
            }
            script.push_str("CLOSE\n");
        }
        self.move_lines(script);
        self.come_and_go(script);
    }

    /// Moves a range of lines between two members whose lines are alike, back and forth, so that ClamAV still loads them.
    fn move_lines(&mut self, script: &mut String) {
        let place = |ending| self.members.iter().position(|member| member.name.ends_with(ending));
        let (Some(hdb), Some(fp)) = (place(".hdb"), place(".fp")) else { return };
        let (source, target) = if self.version.is_multiple_of(2) { (hdb, fp) } else { (fp, hdb) };
        let lines = self.members[source].lines.len();
        if lines < 4 {
            return;
        }
        let start = self.rng.random_range(0..lines - 2);
        let end = self.rng.random_range(start + 1..lines - 1).min(start + 20);
        let text = &self.members[source];
        let (start_prefix, end_prefix) = (prefix(&text.lines[start]), prefix(&text.lines[end]));
        let target_name = &self.members[target].name;
        let (first, last) = (start + 1, end + 1);
        writeln!(script, "MOVE {} {target_name} {first} {start_prefix} {last} {end_prefix}", text.name)
            .unwrap();
        let moved: Vec<String> = self.members[source].lines.drain(start..=end).collect();
        self.members[target].lines.extend(moved);
    }

    /// Now and then a member appears somewhere in the list, or one that had appeared goes.
    fn come_and_go(&mut self, script: &mut String) {
        if self.version.is_multiple_of(3) {
            // Letters, digits and dots are all that ClamAV 1.4 takes in a CDIFF.
            let name = format!("{}{}.hdu", self.database, self.version);
            let lines = vec![line("hdb", &mut self.rng), line("hdb", &mut self.rng)];
            writeln!(script, "OPEN {name}\nADD {}\nADD {}\nCLOSE", lines[0], lines[1]).unwrap();
            let place = self.rng.random_range(0..=self.members.len());
            self.members.insert(place, Text { name, lines });
        }
        if self.version.is_multiple_of(7)
            && let Some(place) = self.members.iter().position(|member| member.name.ends_with(".hdu"))
        {
            writeln!(script, "UNLINK {}", self.members[place].name).unwrap();
            self.members.remove(place);
        }
    }
}

impl Text {
    fn content(&self) -> String {
        joined(&self.lines)
    }
}

/// Puts a signed header in front of a body.
pub fn seal(header: Header, body: Vec<u8>, keys: &Keys) -> Vec<u8> {
    let md5: [u8; 16] = Md5::digest(&body).into();
    let header = Header { md5: Some(md5), dsig: Some(keys.legacy.sign_legacy(&md5)), ..header };
    let mut cvd = Vec::with_capacity(HEADER_BYTES + body.len());
    cvd.extend(header.to_bytes().unwrap());
    cvd.extend(body);
    cvd
}

/// The edits that turn one list of lines into another, as sigtool writes them.
fn script_of(name: &str, old: &[String], new: &[String]) -> String {
    let mut script = format!("OPEN {name}\n");
    for (number, (old, new)) in (1..).zip(old.iter().zip(new)).filter(|(_, (old, new))| old != new) {
        writeln!(script, "XCHG {number} {} {new}", prefix(old)).unwrap();
    }
    for (number, old) in (1..).zip(old).skip(new.len()) {
        writeln!(script, "DEL {number} {}", prefix(old)).unwrap();
    }
    for new in new.iter().skip(old.len()) {
        writeln!(script, "ADD {new}").unwrap();
    }
    script + "CLOSE\n"
}

/// What sigtool writes to recognise a line: at most 16 characters, up to the first space.
fn prefix(line: &str) -> &str {
    let word = line.split(' ').next().unwrap();
    &word[..word.len().min(16)]
}

fn joined(lines: &[String]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// A random line of a kind of member, in that kind's real syntax.
fn line(kind: &str, rng: &mut StdRng) -> String {
    let family = ["Trojan.Agent", "Malware.Generic", "Worm.Mydoom", "Ransomware.Locky", "Downloader.Upatre"];
    let name = format!(
        "Win.{}-{}-0",
        family[rng.random_range(0..family.len())],
        rng.random_range(1_000_000..9_999_999)
    );
    let size = rng.random_range(1_000..9_000_000);
    match kind {
        "hdb" | "hdu" | "fp" => format!("{}:{size}:{name}", hex(rng, 16)),
        "hsb" => format!("{}:{size}:{name}:73", hex(rng, 32)),
        "mdb" => format!("{size}:{}:{name}", hex(rng, 16)),
        "msb" => format!("{size}:{}:{name}:73", hex(rng, 32)),
        "ndb" => {
            let length = rng.random_range(8..90);
            format!("{name}:1:*:{}", hex(rng, length))
        }
        "ldb" => {
            let (a, b) = (rng.random_range(4..30), rng.random_range(4..30));
            format!("{name};Engine:51-255,Target:1;0&1;{};{}", hex(rng, a), hex(rng, b))
        }
        "cdb" => format!("{name}:CL_TYPE_ZIP:*:invoice_{}\\.exe:*:*:0:1:*:*", rng.random_range(1..9999)),
        _ => name,
    }
}

fn hex(rng: &mut StdRng, bytes: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut raw = [0; 128];
    rng.fill_bytes(&mut raw[..bytes]);
    let mut text = String::with_capacity(2 * bytes);
    for byte in &raw[..bytes] {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
