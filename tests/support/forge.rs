//! CVDs that are validly signed by the mint and wrong in one place.
use super::mint_keys::keys;
use cvdmirror::cvd::{HEADER_BYTES, Header};
use flate2::{Compression, write::GzEncoder};
use md5::{Digest as _, Md5};
use rand::{SeedableRng, rngs::StdRng};
use sha2::Sha256;
use std::io::Write as _;

/// A CVD in parts. Change some, then seal it.
pub struct Forge {
    /// MD5 and signature are filled in when it is sealed.
    pub header: Header,
    /// Line 1 of `.info`.
    pub listed_header: String,
    /// The other lines of `.info` but its signature.
    pub list: Vec<String>,
    /// The whole `.info` instead of the lines.
    pub info: Option<Vec<u8>>,
    pub info_name: String,
    /// Members besides COPYING and `.info`.
    pub members: Vec<TarEntry>,
    /// What follows the last member in the tar.
    pub tar_end: Vec<u8>,
    pub compressed: bool,
    /// What follows the tar in the body.
    pub body_end: Vec<u8>,
}

#[derive(Clone)]
pub struct TarEntry {
    pub name: String,
    pub kind: u8,
    /// The size field; the content's size if none.
    pub size: Option<String>,
    pub content: Vec<u8>,
}

pub fn entry(name: &str, content: &[u8]) -> TarEntry {
    TarEntry { name: name.into(), kind: 0, size: None, content: content.into() }
}

pub fn listed(entry: &TarEntry) -> String {
    let hash: String = Sha256::digest(&entry.content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{}:{hash}", entry.name, entry.content.len())
}

impl Forge {
    /// Version 7 of `test`, as proper as can be.
    pub fn proper() -> Self {
        let header = Header {
            build_time: "22 Nov 2026 20-58 +0000".into(),
            version: 7,
            signatures: 2,
            functionality_level: 90,
            md5: None,
            dsig: None,
            builder: "forge".into(),
            stime_s: 1_795_381_080,
        };
        let members = vec![
            entry("test.hdb", b"44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Signature\n"),
            entry("test.ndb", b"Win.Test-1:0:*:6fec40cb4ad432859b126508015369262a47554a451edfaa\n"),
        ];
        Self {
            listed_header: header.to_string(),
            header,
            list: members.iter().map(listed).collect(),
            info: None,
            info_name: "test.info".into(),
            members,
            tar_end: Vec::new(),
            compressed: true,
            body_end: Vec::new(),
        }
    }

    /// Lists every member as it is now.
    pub fn relist(&mut self) {
        self.list = self.members.iter().map(listed).collect();
    }

    pub fn signed_info(&self) -> Vec<u8> {
        let mut info = self.listed_header.clone() + "\n";
        for line in &self.list {
            info += &(line.clone() + "\n");
        }
        let signature = keys().info.sign_pss(info.as_bytes(), &mut StdRng::seed_from_u64(5));
        (info + "DSIG:" + &signature + "\n").into_bytes()
    }

    pub fn body(&self) -> Vec<u8> {
        let info = self.info.clone().unwrap_or_else(|| self.signed_info());
        let mut tar = Vec::new();
        append(&mut tar, &entry("COPYING", b"A forged database for tests.\n"));
        append(&mut tar, &entry(&self.info_name, &info));
        for member in &self.members {
            append(&mut tar, member);
        }
        tar.extend(&self.tar_end);
        let mut body = if self.compressed { gzip(&tar) } else { tar };
        body.extend(&self.body_end);
        body
    }

    pub fn seal(&self) -> Vec<u8> {
        self.seal_body(&self.body())
    }

    pub fn seal_body(&self, body: &[u8]) -> Vec<u8> {
        let md5: [u8; 16] = Md5::digest(body).into();
        let dsig = Some(keys().legacy.sign_legacy(&md5));
        let header = Header { md5: Some(md5), dsig, ..self.header.clone() };
        [&header.to_bytes().unwrap()[..], body].concat()
    }

    /// Seals it, then changes the header's text.
    pub fn seal_with(&self, change: impl Fn(String) -> String) -> Vec<u8> {
        let sealed = self.seal();
        let header = String::from_utf8(sealed[..HEADER_BYTES].to_vec()).unwrap();
        let changed = change(header.trim_end().to_owned());
        [format!("{changed:<HEADER_BYTES$}").as_bytes(), &sealed[HEADER_BYTES..]].concat()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn append(tar: &mut Vec<u8>, entry: &TarEntry) {
    let mut block = [0; 512];
    block[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
    let size = entry.size.clone().unwrap_or_else(|| format!("{:o}", entry.content.len()));
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = entry.kind;
    tar.extend(block);
    tar.extend(&entry.content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
