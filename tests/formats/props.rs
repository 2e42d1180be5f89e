//! Properties of the parsers: what is printed parses back, how bytes are cut into reads changes nothing, and what is
//! not canonical is refused.
use cvdmirror::cvd::{
    CurrentRecord, Database, DatabaseRecord, FileKind, FileName, HEADER_BYTES, Header, Limits, SignFile,
    TrustKeys,
    body_writer::BodyWriter,
    container::Members,
    header::HeaderError,
    info::Info,
    script::{Command, commands},
    signature::{SignatureError, decode},
    verify_cvd,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use support::{
    forge::Forge,
    mint_keys::{Unmasked, keys},
    talos,
};

fn header() -> impl Strategy<Value = Header> {
    let text = "[A-Za-z0-9 +-]{0,20}[A-Za-z0-9]";
    let dsig = prop::option::of("[a-zA-Z0-9+/]{2,171}");
    (text, any::<(u32, u32, u32, u64)>(), any::<Option<[u8; 16]>>(), dsig, text).prop_map(
        |(build_time, (version, signatures, functionality_level, stime_s), md5, dsig, builder)| Header {
            build_time,
            version,
            signatures,
            functionality_level,
            md5,
            dsig,
            builder,
            stime_s,
        },
    )
}

fn database() -> impl Strategy<Value = Database> {
    "[A-Za-z0-9_]{1,32}".prop_map(|text| text.parse().unwrap())
}

/// A reader that hands out as few bytes as told, over and over.
struct Dripping<'a>(&'a [u8], usize);
impl Read for Dripping<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(out.len());
        self.0.read(&mut out[..count])
    }
}

fn contents(body: impl Read) -> Vec<(String, Vec<u8>)> {
    let mut members = Members::new(body, &Limits::default()).unwrap();
    let mut contents = Vec::new();
    while let Some(entry) = members.next_member().unwrap() {
        contents.push((entry.name, members.read_all().unwrap()));
    }
    contents
}

proptest! {
    #[test]
    fn headers_print_back(header in header()) {
        let bytes = header.to_bytes().unwrap();
        prop_assert_eq!(Header::parse(&bytes).unwrap(), header);
    }

    #[test]
    fn no_two_headers_mean_the_same(header in header(), at in 0..HEADER_BYTES, byte in 0x20..0x7fu8) {
        let original = header.to_bytes().unwrap();
        let mut changed = original;
        changed[at] = byte;
        if changed != original && header.md5.is_some() && header.dsig.is_some() {
            prop_assert_ne!(Header::parse(&changed), Ok(header));
        }
    }

    #[test]
    fn file_names_print_back(database in database(), version in 1..=u32::MAX, kind in 0..4usize) {
        let kind = [FileKind::Cvd, FileKind::Cdiff, FileKind::CvdSign, FileKind::CdiffSign][kind];
        let name = FileName::new(&database, version, kind);
        prop_assert_eq!(name.to_string().parse::<FileName>(), Ok(name));
    }

    #[test]
    fn what_parses_as_a_file_name_is_its_only_spelling(text in "[a-z0-9_./%-]{0,20}(\\.cvd|\\.cdiff|\\.sign)?") {
        if let Ok(name) = text.parse::<FileName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn records_print_back(fields in any::<[u32; 5]>(), time_s in any::<u64>()) {
        let some = |value: u32| (value > 0).then_some(value);
        let record = CurrentRecord {
            engine: "1.4.6".into(),
            main: some(fields[0].max(1)),
            daily: some(fields[1]),
            time_s: Some(time_s),
            version_warning: Some(1),
            functionality_level: Some(fields[2]),
            safebrowsing: some(fields[3]),
            bytecode: some(fields[4]),
        };
        prop_assert_eq!(CurrentRecord::parse(&record.to_string()).unwrap(), record);
        let record = DatabaseRecord { version: fields[0].max(1), time_s: Some(time_s) };
        prop_assert_eq!(DatabaseRecord::parse(&record.to_string()).unwrap(), record);
    }

    #[test]
    fn bodies_read_back_however_they_are_cut(
        members in prop::collection::btree_map("[a-z0-9][a-z0-9._-]{0,20}", prop::collection::vec(any::<u8>(), 0..3000), 0..6),
        cut in 1..2000usize,
    ) {
        let write = |cut: usize| {
            let mut writer = BodyWriter::new(Vec::new()).unwrap();
            for (name, content) in &members {
                writer.member(name, content.len() as u64).unwrap();
                content.chunks(cut).for_each(|chunk| writer.write_all(chunk).unwrap());
            }
            writer.finish().unwrap()
        };
        let body = write(cut);
        prop_assert_eq!(&body, &write(usize::MAX));
        let expected: Vec<_> = members.clone().into_iter().collect();
        prop_assert_eq!(contents(&body[..]), expected.clone());
        prop_assert_eq!(contents(Dripping(&body, cut)), expected);
    }

    #[test]
    fn script_lines_mean_what_they_say(line in 1..=u32::MAX, prefix in "[!-~]{1,16}", new in "[ -~]{1,40}") {
        let script = format!("OPEN a.hdb\nADD {new}\nDEL {line} {prefix}\nXCHG {line} {prefix} {new}\nCLOSE\n");
        let parsed: Vec<_> = commands(script.as_bytes()).map(|command| command.unwrap().1).collect();
        let (prefix, new) = (prefix.as_bytes(), new.as_bytes());
        prop_assert_eq!(
            parsed,
            [
                Command::Open("a.hdb"),
                Command::Add(new),
                Command::Delete { line, prefix },
                Command::Exchange { line, prefix, new },
                Command::Close
            ]
        );
    }

    #[test]
    fn any_bytes_are_refused_or_parsed_but_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = (Header::parse(&bytes), Info::parse(&bytes), SignFile::parse(&bytes));
        let _ = commands(&bytes).count();
        let _ = Members::new(&bytes[..], &Limits::default()).map(|mut members| members.next_member().is_ok());
        let _ = verify_cvd(&"test-1.cvd".parse().unwrap(), &bytes[..], &TrustKeys::talos(), &Limits::default());
    }

    #[test]
    fn signature_texts_are_little_endian(digits in prop::collection::vec(0..64u8, 1..40)) {
        const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
        let text: String = digits.iter().map(|&digit| char::from(ALPHABET[usize::from(digit)])).collect();
        let value = digits.iter().rev().fold(num_bigint::BigUint::ZERO, |value, &digit| value * 64u32 + digit);
        let expected = if text.ends_with('a') { Err(SignatureError::ZeroDigit) } else { Ok(value) };
        prop_assert_eq!(decode(&text), expected);
    }
}

#[test]
fn talos_verify_however_reads_are_cut() {
    let (cvd, name) = (talos("test-5.cvd"), "test-5.cvd".parse().unwrap());
    for cut in [1, 7, 511, 512, 513, 4096] {
        verify_cvd(&name, Dripping(&cvd, cut), &support::talos::trust_keys(), &Limits::default()).unwrap();
    }
}

#[test]
fn names_that_would_be_second_spellings_or_paths_are_refused() {
    for text in [
        "",
        "daily.cvd",
        "daily-.cvd",
        "daily-0.cvd",
        "daily-01.cvd",
        "daily-+1.cvd",
        "daily-4294967296.cvd",
        "-1.cvd",
        "daily-1.CVD",
        "daily-1.cld",
        "daily-1.cvd.sig",
        "../daily-1.cvd",
        "a/b-1.cvd",
        "da-ily-1.cvd",
        "dåily-1.cvd",
        "daily-1.cvd ",
        " daily-1.cvd",
        "daily-1.cvd\0",
        "daily-1.cvd.sign.sign",
        "d.x-1.cvd",
    ] {
        assert!(text.parse::<FileName>().is_err(), "{text:?}");
    }
    assert!("a".repeat(33).parse::<Database>().is_err());
    let name: FileName = "daily-4294967295.cdiff".parse().unwrap();
    assert_eq!(name.sign().unwrap().to_string(), "daily-4294967295.cdiff.sign");
    assert_eq!(name.sign().unwrap().sign(), None);
}

#[test]
fn records_are_read_as_tolerantly_as_freshclam_does() {
    let daily: Database = "daily".parse().unwrap();
    let record = CurrentRecord::parse("\"1.4.6:63:28034:1781708400:1:90:49192:339\"\n").unwrap();
    assert_eq!((record.version(&daily), record.time_s), (Some(28034), Some(1_781_708_400)));
    // Fields may be missing at the end, or be no number; those are absent.
    let short = CurrentRecord::parse("1.4.6:63:28034").unwrap();
    assert_eq!((short.version(&daily), short.time_s, short.bytecode), (Some(28034), None, None));
    assert_eq!(CurrentRecord::parse("1.4.6:x:28034:").unwrap().main, None);
    for text in ["", "<html>", "v=spf1 -all", "1.4.6:0:0", "1.4.6:-1:4294967296", &"1:".repeat(200)] {
        assert!(CurrentRecord::parse(text).is_err(), "{text}");
    }
    assert_eq!(DatabaseRecord::parse("5:1781708400").unwrap().version, 5);
    for text in ["", "0:1", "x:1", "-5"] {
        assert!(DatabaseRecord::parse(text).is_err(), "{text}");
    }
    let mut record = CurrentRecord::default();
    assert!(record.set_version(&daily, 7) && !record.set_version(&"test".parse().unwrap(), 7));
    assert_eq!(record.to_string(), ":0:7:0:0:0:0:0");
}

/// The rules of RFC 8017 section 9.1.2 that only the holder of the key could break.
#[test]
fn a_pss_signature_must_be_padded_properly() {
    let (private, public) = (&keys().cdiff, keys().public().cdiff);
    let hash: [u8; 32] = Sha256::digest(b"data").into();
    let check =
        |change: fn(&mut Unmasked)| public.verify_pss(&hash, &private.sign_pss_wrongly(b"data", change));
    assert_eq!(check(|_| {}), Ok(()));
    assert_eq!(check(|message| message.trailer = 0xbd), Err(SignatureError::Mismatch));
    assert_eq!(check(|message| message.db[100] = 1), Err(SignatureError::Mismatch));
    assert_eq!(check(|message| message.db[190] = 0), Err(SignatureError::Mismatch));
    assert_eq!(check(|message| message.db[190] = 2), Err(SignatureError::Mismatch));
    // The one bit that ClamAV's signer clears is not looked at.
    assert_eq!(check(|message| message.db[0] = 0x80), Ok(()));

    let good = private.sign_pss_wrongly(b"data", |_| {});
    let raised = decode(&good).unwrap() + public.n();
    const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
    let raised: String =
        raised.to_radix_le(64).iter().map(|&d| char::from(ALPHABET[usize::from(d)])).collect();
    assert_eq!(public.verify_pss(&hash, &raised), Err(SignatureError::Range));
    assert_eq!(public.verify_pss(&hash, "a"), Err(SignatureError::ZeroDigit));
    assert_eq!(public.verify_pss(&hash, ""), Err(SignatureError::Text));
    assert_eq!(public.verify_pss(&hash, &"b".repeat(400)), Err(SignatureError::Text));
}

#[test]
fn keys_are_read_in_every_form_and_checked() {
    let toml = |key: &str| {
        let text = format!("legacy = {key}\ncdiff = {key}\ninfo = {key}\n");
        toml::from_str::<TrustKeys>(&text)
    };
    let n = "a8f3".to_owned() + &"0".repeat(250) + "01";
    let one = toml(&format!("{{ n = \"{n}\", e = 65537 }}")).unwrap();
    assert_eq!(one, toml(&format!("{{ n = \"{n}\", e = \"65537\" }}")).unwrap());
    assert_eq!(one, toml(&format!("{{ n = \"{n}\", e = \"0x10001\" }}")).unwrap());
    for wrong in [
        "{ n = \"xyz\", e = 3 }",
        "{ n = \"01\", e = 3 }",
        &format!("{{ n = \"{n}\", e = 1 }}"),
        "{ n = \"1\" }",
    ] {
        assert!(toml(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_body_writer_holds_callers_to_what_they_announce() {
    let mut writer = BodyWriter::new(Vec::new()).unwrap();
    writer.member("a.hdb", 3).unwrap();
    assert!(writer.write_all(b"1234").is_err());
    writer.write_all(b"12").unwrap();
    assert!(writer.member("b.hdb", 1).is_err());
    let mut writer = BodyWriter::new(Vec::new()).unwrap();
    assert!(writer.member("a/b", 1).is_err() && writer.member(&"x".repeat(100), 1).is_err());
}

#[test]
fn header_errors_name_the_field() {
    let sealed = Forge::proper().seal();
    let line = String::from_utf8(sealed[..HEADER_BYTES].to_vec()).unwrap();
    let parse = |line: String| Header::parse(format!("{line:<HEADER_BYTES$}").as_bytes());
    let field = |result| match result {
        Err(HeaderError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let line = line.trim_end();
    assert_eq!(field(parse(line.replace(":7:2:", ":7:4294967296:"))), "signatures");
    assert_eq!(field(parse(line.replace(":90:", "::"))), "functionality level");
    assert_eq!(field(parse(line.replace("forge", ""))), "builder");
    assert_eq!(field(parse(format!("{line} x"))), "stime");
    assert_eq!(field(parse(line.replace("22 Nov 2026 20-58 +0000", ""))), "build time");
}
