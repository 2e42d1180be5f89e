//! A database's members while CDIFFs edit them.
//!
//! Each member is a list of pieces of one scratch file, which is only ever appended to: an edit cuts and adds pieces
//! and moves no bytes. So memory grows with the edits, not with the database, and a chain of CDIFFs costs one copy.
//! Guarantees that a failed edit does not change its member. Knows lines, not scripts.
use super::{
    container::{ContainerError, Members},
    limits::Limits,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
};

const CHUNK_BYTES: usize = 256 << 10;

/// The members of a database, by name.
pub struct Draft<'a> {
    scratch: &'a File,
    members: BTreeMap<String, Text>,
    /// What was appended last and is not yet in the file.
    pending: Vec<u8>,
    /// How many bytes the file holds.
    flushed: u64,
}

/// A member's content.
#[derive(Clone, Default, Debug)]
pub(super) struct Text {
    /// Where its bytes lie in the scratch file, in order, none empty.
    pieces: Vec<Range<u64>>,
    size: u64,
}

/// Why a line cannot be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error(transparent)]
    Scratch(#[from] io::Error),
    #[error("no line {line}, there are {lines}")]
    Absent { line: u32, lines: u32 },
}

impl<'a> Draft<'a> {
    /// Starts without members, on an empty file, open for reading and writing, that nothing else uses.
    pub fn new(scratch: &'a File) -> Self {
        Self { scratch, members: BTreeMap::new(), pending: Vec::new(), flushed: 0 }
    }

    /// Takes in every member of a CVD's body.
    pub fn load(&mut self, body: impl Read, limits: &Limits) -> Result<(), ContainerError> {
        let mut source = Members::new(body, limits)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(entry) = source.next_member()? {
            let mut text = Text::default();
            loop {
                match source.read(&mut chunk)? {
                    0 => break,
                    got => text.push(self.append(&chunk[..got])?),
                }
            }
            self.members.insert(entry.name, text);
        }
        self.flush()?;
        Ok(())
    }

    /// The members' names, sorted, with their sizes in bytes.
    pub fn members(&self) -> impl Iterator<Item = (&str, u64)> {
        self.members.iter().map(|(name, text)| (name.as_str(), text.size))
    }

    /// Reads a member from its start.
    pub fn read(&self, name: &str) -> Option<impl Read> {
        Some(self.reader(self.members.get(name)?))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Text> {
        self.members.get(name)
    }
    pub(super) fn put(&mut self, name: &str, text: Text) {
        self.members.insert(name.to_owned(), text);
    }
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.members.remove(name).is_some()
    }

    /// Adds bytes to the scratch file; they can be read after `flush`.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<Range<u64>> {
        if self.pending.len() + bytes.len() > CHUNK_BYTES {
            self.flush()?;
        }
        let start = self.flushed + self.pending.len() as u64;
        self.pending.extend_from_slice(bytes);
        Ok(start..start + bytes.len() as u64)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.scratch.write_all_at(&self.pending, self.flushed)?;
        self.flushed += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    fn reader<'t>(&self, text: &'t Text) -> PieceReader<'t>
    where
        'a: 't,
    {
        PieceReader { scratch: self.scratch, pieces: &text.pieces, start: 0, skipped: 0 }
    }

    /// Says whether every line of the text ends in a newline.
    pub(super) fn is_whole_lines(&self, text: &Text) -> io::Result<bool> {
        let Some(last) = text.pieces.last() else { return Ok(true) };
        let mut byte = [0];
        self.scratch.read_exact_at(&mut byte, last.end - 1)?;
        Ok(byte == *b"\n")
    }

    /// Says which bytes of the text the given lines (ascending, from 1) are, newline included.
    pub(super) fn locate(
        &self,
        text: &Text,
        lines: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<Range<u64>>, LineError> {
        let mut wanted = lines.into_iter().peekable();
        let mut found = Vec::new();
        let mut reader = self.reader(text);
        let mut chunk = vec![0; CHUNK_BYTES];
        // `line` starts at `start`; the chunk at `base`.
        let (mut line, mut start, mut base) = (1, 0, 0);
        while wanted.peek().is_some() {
            let got = reader.read(&mut chunk)?;
            if got == 0 {
                break;
            }
            for newline in memchr::memchr_iter(b'\n', &chunk[..got]) {
                let end = base + newline as u64 + 1;
                if wanted.next_if_eq(&line).is_some() {
                    found.push(start..end);
                }
                (line, start) = (line.saturating_add(1), end);
            }
            base += got as u64;
        }
        match wanted.next() {
            Some(absent) => Err(LineError::Absent { line: absent, lines: line - 1 }),
            None => Ok(found),
        }
    }

    /// Says of each position (ascending) whether the text has those bytes there.
    pub(super) fn compare<'p>(
        &self,
        text: &Text,
        expected: impl IntoIterator<Item = (u64, &'p [u8])>,
    ) -> io::Result<Vec<bool>> {
        let mut reader = self.reader(text);
        let mut same = Vec::new();
        let mut bytes = Vec::new();
        for (position, prefix) in expected {
            reader.skip_to(position);
            bytes.clear();
            reader.clone().take(prefix.len() as u64).read_to_end(&mut bytes)?;
            same.push(bytes == prefix);
        }
        Ok(same)
    }
}

impl Text {
    /// Adds a piece at the end.
    pub(super) fn push(&mut self, piece: Range<u64>) {
        self.size += piece.end - piece.start;
        match self.pieces.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ if piece.is_empty() => {}
            _ => self.pieces.push(piece),
        }
    }

    /// Cuts the text at ascending positions and returns the parts.
    pub(super) fn cut(&self, positions: impl IntoIterator<Item = u64>) -> Vec<Text> {
        let mut parts = Vec::new();
        let mut pieces = self.pieces.iter().cloned();
        let (mut rest, mut at) = (0..0, 0);
        for position in positions.into_iter().chain([self.size]) {
            let mut part = Text::default();
            while at < position {
                if rest.is_empty() {
                    let Some(piece) = pieces.next() else { break };
                    rest = piece;
                }
                let count = (position - at).min(rest.end - rest.start);
                part.push(rest.start..rest.start + count);
                rest.start += count;
                at += count;
            }
            parts.push(part);
        }
        parts
    }

    /// Adds another text at the end.
    pub(super) fn extend(&mut self, other: &Text) {
        other.pieces.iter().for_each(|piece| self.push(piece.clone()));
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Reads a text from front to back.
#[derive(Clone)]
struct PieceReader<'t> {
    scratch: &'t File,
    /// The pieces left; of the first, `skipped` bytes are done.
    pieces: &'t [Range<u64>],
    /// Where in the text the first piece left starts.
    start: u64,
    skipped: u64,
}

impl PieceReader<'_> {
    /// Goes forward to a position in the text.
    fn skip_to(&mut self, position: u64) {
        while let [first, rest @ ..] = self.pieces {
            let length = first.end - first.start;
            if position < self.start + length {
                self.skipped = position.saturating_sub(self.start).max(self.skipped);
                return;
            }
            (self.pieces, self.start, self.skipped) = (rest, self.start + length, 0);
        }
    }
}

impl Read for PieceReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        // Many edits make many small pieces: one call serves as many as fit.
        while let ([first, ..], true) = (self.pieces, filled < out.len()) {
            let left = first.end - first.start - self.skipped;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(out.len() - filled);
            self.scratch.read_exact_at(&mut out[filled..filled + count], first.start + self.skipped)?;
            filled += count;
            self.skip_to(self.start + self.skipped + count as u64);
        }
        Ok(filled)
    }
}
