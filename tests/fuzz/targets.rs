//! What the fuzzers run: every parser on any bytes. None may panic, hang, or take more than its limits; what parses
//! keeps its promises.
use cvdmirror::cvd::{
    Anchors, CurrentRecord, DatabaseRecord, FileName, Header, Limits, TrustKeys,
    apply::apply,
    body_writer::BodyWriter,
    container::Members,
    draft::Draft,
    info::Info,
    inspect::{Inspection, Report},
    script, verify_sign,
};
use std::{
    io::{Read, Write},
    sync::OnceLock,
};

/// A parser and its name, which is also its corpus' directory.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 8] = [
    ("header", header),
    ("tar", tar),
    ("info", info),
    ("script", script_target),
    ("apply", apply_target),
    ("sign", sign),
    ("names", names),
    ("inspect", inspect),
];

fn limits() -> Limits {
    Limits {
        max_cvd_bytes: 1 << 20,
        max_inflated_bytes: 4 << 20,
        max_member_bytes: 1 << 20,
        max_members: 100,
        max_info_bytes: 1 << 16,
        max_cdiff_bytes: 1 << 20,
        max_script_bytes: 1 << 20,
        max_script_lines: 10_000,
        max_line_bytes: 1 << 16,
        max_sign_bytes: 1 << 16,
    }
}

/// A header that parses prints the bytes it came from, but for what counts as absent.
pub(crate) fn header(data: &[u8]) {
    if let Ok(header) = Header::parse(data)
        && let Some(bytes) = header.to_bytes()
    {
        assert_eq!(Header::parse(&bytes), Ok(header.clone()));
        if header.md5.is_some() && header.dsig.is_some() {
            assert_eq!(bytes, data[..512]);
        }
    }
}

/// The body of a CVD, gzip or raw.
pub(crate) fn tar(data: &[u8]) {
    let limits = limits();
    let Ok(mut members) = Members::new(data, &limits) else { return };
    let mut total = 0;
    while let Ok(Some(entry)) = members.next_member() {
        assert!(!entry.name.contains('/') && !entry.name.starts_with('.'));
        let Ok(content) = members.read_all() else { return };
        assert_eq!(content.len() as u64, entry.size);
        total += entry.size;
        assert!(total <= limits.max_inflated_bytes);
    }
}

/// The `.info` member.
pub(crate) fn info(data: &[u8]) {
    if let Ok(info) = Info::parse(data) {
        let _ = info.verify(&TrustKeys::talos().info);
        assert!(data.starts_with(info.header.to_string().as_bytes()));
    }
}

/// A CDIFF's script, parsed.
pub(crate) fn script_target(data: &[u8]) {
    let mut lines = 0;
    for command in script::commands(data) {
        lines += 1;
        if let Ok((line, _)) = command {
            assert_eq!(line, lines);
        }
    }
}

/// A CDIFF's script, applied to a small database.
pub(crate) fn apply_target(data: &[u8]) {
    let mut body = BodyWriter::new(Vec::new()).unwrap();
    for (name, text) in [("a.hdb", "aab\nb\nab\naa\nbab\n"), ("b.hdb", "ba\nbb\n"), ("c.ndb", "x\ny")] {
        body.member(name, text.len() as u64).unwrap();
        body.write_all(text.as_bytes()).unwrap();
    }
    let scratch = tempfile::tempfile().unwrap();
    let mut draft = Draft::new(&scratch);
    draft.load(&body.finish().unwrap()[..], &limits()).unwrap();
    if apply(&mut draft, data, &limits()).is_ok() {
        for name in draft.names() {
            let mut content = Vec::new();
            draft.read(name).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(draft.size(name), Some(content.len() as u64));
            assert!(content.len() <= data.len() + 100);
        }
    }
}

/// A sign file, parsed and checked against a root that signed nothing.
pub(crate) fn sign(data: &[u8]) {
    static ANCHORS: OnceLock<Anchors> = OnceLock::new();
    let anchors = ANCHORS.get_or_init(|| {
        let mut anchors = Anchors::default();
        anchors.add_pem(include_bytes!("root.pem")).unwrap();
        anchors
    });
    let _ = verify_sign(data, &b"the signed file"[..], anchors, 1_795_305_600, &limits());
}

/// File names and TXT records: what parses prints back.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<FileName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(record) = CurrentRecord::parse(text)
        && !record.engine.contains(['"', ' '])
    {
        let again = CurrentRecord::parse(&record.to_string()).unwrap();
        assert_eq!((again.main, again.daily, again.bytecode), (record.main, record.daily, record.bytecode));
    }
    if let Ok(record) = DatabaseRecord::parse(text) {
        assert_eq!(DatabaseRecord::parse(&record.to_string()).unwrap().version, record.version);
    }
}

/// A whole file of any kind.
pub(crate) fn inspect(data: &[u8]) {
    let (keys, limits) = (TrustKeys::talos(), limits());
    for file in ["test-5.cvd", "test.cld", "test-5.cdiff", "test-5.cvd.sign"] {
        let inspection = Inspection { keys: &keys, limits: &limits, anchors: None, signed: None, now_s: 0 };
        let report = Report::of(file, data, inspection).unwrap();
        let _ = report.to_string();
    }
}
