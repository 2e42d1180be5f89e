//! What the fuzzers run: every parser on any bytes. None may panic, hang, or take more than its limits; what parses
//! keeps its promises.
use cvdmirror::{
    clock::Clock,
    control::Request,
    cvd::{
        Anchors, CurrentRecord, DatabaseRecord, FileName, Header, Limits, TrustKeys, apply::apply,
        body_writer::BodyWriter, container::Members, draft::Draft, info::Info, inspect::Inspector, script,
        signature::decode, verify_sign,
    },
    http::Proxy,
    mirror::{DataDir, Verifier, copies::restore},
};
use cvdmirror_store::{Error, Hasher, ObjectId, Pack, check_pack, hide_caught_panics};
use http::Uri;
use redb::{StorageBackend, TableDefinition};
use reqwest::Url;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Once, OnceLock},
};

/// A parser and its name, which is also its corpus' directory.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 14] = [
    ("header", header),
    ("tar", tar),
    ("info", info),
    ("script", script_target),
    ("apply", apply_target),
    ("dsig", dsig),
    ("sign", sign),
    ("names", names),
    ("inspect", inspect),
    ("pack", pack),
    ("rows", rows),
    ("admission", admission),
    ("control", control),
    ("tunnel", tunnel),
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
        for (name, size) in draft.members() {
            let mut content = Vec::new();
            draft.read(name).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(size, content.len() as u64);
            assert!(content.len() <= data.len() + 100);
        }
    }
}

/// A signature's text: what decodes is the number's only text.
pub(crate) fn dsig(data: &[u8]) {
    const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(number) = decode(text) {
        let digits = number.to_radix_le(64).into_iter();
        assert!(digits.map(|digit| ALPHABET[usize::from(digit)]).eq(data.iter().copied()));
    }
}

/// A sign file, parsed, checked with the file it may sign, and against a root that signed nothing.
pub(crate) fn sign(data: &[u8]) {
    static ANCHORS: OnceLock<Anchors> = OnceLock::new();
    let anchors = ANCHORS.get_or_init(|| {
        let mut anchors = Anchors::default();
        anchors.add_pem(include_bytes!("root.pem")).unwrap();
        anchors
    });
    let check = |signed: &[u8], anchors| verify_sign(data, signed, anchors, 1_795_305_600, &limits()).is_ok();
    assert!(!check(b"the signed file", Some(anchors)));
    // A signature that holds is for one file alone.
    assert!(!(check(b"the signed file", None) && check(b"another file", None)));
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
        let inspector = Inspector { keys: &keys, limits: &limits, anchors: None, signed: None, now_s: 0 };
        let report = inspector.inspect(file, data).unwrap();
        let _ = report.to_string();
    }
}

/// A pack's file.
pub(crate) fn pack(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("20260101T000000Z-0123456789abcdef.redb");
    std::fs::write(&path, data).unwrap();
    open_pack(&path);
}

/// A pack's rows with right checks, as a hostile builder would have them: section, number, length in two bytes, value.
pub(crate) fn rows(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("20260101T000000Z-0123456789abcdef.redb");
    write_rows(&path, data);
    open_pack(&path);
}

/// A pack of such rows under its right name, carried into a store: what is admitted is what the keys signed, or empty.
pub(crate) fn admission(data: &[u8]) {
    static HIDE: Once = Once::new();
    HIDE.call_once(hide_caught_panics);
    let (carried, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = carried.path().join("rows");
    write_rows(&path, data);
    let hash = ObjectId::of(&std::fs::read(&path).unwrap()).to_string();
    std::fs::rename(&path, path.with_file_name(format!("20260101T000000Z-{}.redb", &hash[..16]))).unwrap();
    let (keys, clock) = (TrustKeys::talos(), Clock::system());
    let verifier = Verifier { keys, limits: limits(), anchors: None, site: None, clock };
    let Ok(copies) = restore(&DataDir::new(home.path()), carried.path(), &verifier) else { return };
    assert!(copies.copied == 1 || !copies.findings.is_empty());
    for pack in cvdmirror_store::Store::scan(&home.path().join("store")).unwrap().packs {
        for (name, record) in pack.names() {
            // A record may lie about the length; then the name is left out of what is served.
            let empty = record.object == ObjectId::of(b"");
            assert!(name.ends_with(".cdiff") && empty, "{name} was signed by nobody");
        }
    }
}

/// A line on the control socket: what reads is sent so.
pub(crate) fn control(data: &[u8]) {
    if let Ok(request) = Request::from_line(data) {
        assert_eq!(Request::from_line(&request.to_line()).unwrap(), request);
    }
}

/// What `CONNECT` and absolute-form targets ask for: only the upstream's host is answered from here.
pub(crate) fn tunnel(data: &[u8]) {
    static PROXY: OnceLock<Proxy> = OnceLock::new();
    let upstream = || "https://database.clamav.net".parse::<Url>().unwrap();
    let proxy = PROXY.get_or_init(|| Proxy::new(&[upstream()], true, &[]));
    let Ok(uri) = Uri::try_from(data) else { return };
    let (here, answered) = (proxy.ends_here(&uri), proxy.stands_for(&uri));
    if here || answered {
        assert!(uri.host().unwrap().eq_ignore_ascii_case("database.clamav.net"), "{uri}");
        assert!(!uri.authority().unwrap().as_str().contains('@'), "{uri}");
        assert!(matches!(uri.port_u16(), None | Some(80)), "{uri}");
        assert_eq!(here, uri.scheme().is_none(), "{uri}");
    }
}

/// Makes a pack's file of what the target "rows" takes.
pub(crate) fn write_rows(path: &Path, mut data: &[u8]) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let database = redb::Builder::new().create_with_backend(Unsynced(file)).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut table = txn.open_table(TableDefinition::<(u8, u64), &[u8]>::new("cvdmirror-store")).unwrap();
        while let [section, number, low, high, rest @ ..] = data {
            let key = (*section, u64::from(*number));
            let (value, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([*low, *high]).into()));
            let checked = [&[key.0][..], &key.1.to_le_bytes(), value].concat();
            let check = ObjectId::of(&checked);
            let row = if key.0 == 0 { value.to_vec() } else { [value, &check.as_bytes()[..16]].concat() };
            table.insert(key, row.as_slice()).unwrap();
            data = rest;
        }
    }
    txn.commit().unwrap();
}

/// A file that is not synced: what a fuzzer writes need not last, and waiting for the disk is all it would do.
#[derive(Debug)]
struct Unsynced(File);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Opens a pack, checks it, and reads all that it says it has: bytes are right, or not given.
fn open_pack(path: &Path) {
    // The fuzzer takes a panic for a fault even where it is caught.
    static HIDE: Once = Once::new();
    HIDE.call_once(hide_caught_panics);
    let Ok(pack) = Pack::open_file(path) else { return };
    let total: u64 = pack.objects().map(|(_, size)| size).sum();
    assert!(total <= pack.file_len());
    let mut findings = Vec::new();
    check_pack(&pack, false, &|_| {}, &mut |finding| findings.push(finding));
    for (name, record) in pack.names() {
        assert_eq!(pack.lookup(name), Some(record));
    }
    for (id, size) in pack.objects() {
        let reader = pack.open(&id).unwrap().unwrap();
        let (mut hasher, mut at) = (Hasher::new(), 0);
        while at < size {
            match reader.chunk_at(at) {
                Ok(chunk) => {
                    assert!(!chunk.is_empty());
                    hasher.update(&chunk);
                    at += chunk.len() as u64;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { object, .. } if object == id), "{error}");
                    break;
                }
            }
        }
        // An object of several pieces may be of other pieces than its id says: that is for the check to find.
        assert!(at < size || hasher.finish() == id || !findings.is_empty());
    }
}
