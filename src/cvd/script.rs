//! The language of CDIFF scripts.
//!
//! Guarantees that a script that passes `check` is whole and unambiguous by itself: every line is a command, every file
//! opened is closed. Only applying it shows whether its edits fit a database. Stricter than ClamAV where ClamAV loses
//! data or dies: see `ScriptError`.
use super::{container::is_member_name, header::number, limits::Limits};

/// One line of a script, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// A line that starts with `#`.
    Comment,
    /// Edits of this member follow.
    Open(&'a str),
    /// Appends a line (without its newline).
    Add(&'a [u8]),
    /// Deletes a line.
    Delete {
        /// The line's number before any edit, from 1.
        line: u32,
        /// What the line starts with.
        prefix: &'a [u8],
    },
    /// Exchanges a line.
    Exchange {
        /// The line's number before any edit, from 1.
        line: u32,
        /// What the line starts with.
        prefix: &'a [u8],
        /// The new line, without its newline.
        new: &'a [u8],
    },
    /// Ends the edits of a member and carries them out.
    Close,
    /// Moves lines from one member to the end of another.
    Move {
        /// Where they are.
        source: &'a str,
        /// Where they go; must exist.
        target: &'a str,
        /// The first line, from 1.
        start: u32,
        /// What the first line starts with.
        start_prefix: &'a [u8],
        /// The last line.
        end: u32,
        /// What the last line starts with.
        end_prefix: &'a [u8],
    },
    /// Removes a member.
    Unlink(&'a str),
}

/// Why a script is refused; lines count from 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ScriptError {
    /// The last line has no newline; such a DEL aborts the ClamAV process.
    #[error("last line has no newline")]
    NoFinalNewline,
    #[error("line {0} is blank")]
    Blank(u64),
    #[error("line {0} ends in CR LF")]
    CarriageReturn(u64),
    #[error("line {0} is no known command")]
    Unknown(u64),
    #[error("line {line}: wrong arguments of {command}")]
    Arguments { line: u64, command: &'static str },
    /// A member name with a path or with characters no database file has.
    #[error("line {0} names no proper member")]
    Name(u64),
    #[error("line {0} edits, but no member is open")]
    NotOpen(u64),
    /// `OPEN`, `MOVE` or `UNLINK` while a member is open.
    #[error("line {0} comes before the member opened earlier is closed")]
    StillOpen(u64),
    /// The script ends with a member open; ClamAV would silently drop its edits.
    #[error("the member opened at line {0} is never closed")]
    NeverClosed(u64),
    /// A MOVE that does not span at least two lines; ClamAV refuses it too.
    #[error("line {0} moves no range: its end must come after its start")]
    EmptyRange(u64),
    #[error("script has more than {0} lines")]
    TooManyLines(u64),
    #[error("line {0} is too long")]
    LineTooLong(u64),
}

/// Reads a script command by command, with each one's line number; stops after the first error.
pub fn commands(script: &[u8]) -> impl Iterator<Item = Result<(u64, Command<'_>), ScriptError>> {
    let mut rest = script;
    let mut number = 0;
    let mut open = None;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return open.take().map(|line| Err(ScriptError::NeverClosed(line)));
        }
        number += 1;
        let result = match memchr::memchr(b'\n', rest) {
            None => Err(ScriptError::NoFinalNewline),
            Some(end) => {
                let line = &rest[..end];
                rest = &rest[end + 1..];
                parse_line(number, line).and_then(|command| follow(&mut open, number, command))
            }
        };
        if result.is_err() {
            (rest, open) = (&[], None);
        }
        Some(result)
    })
}

/// Checks a whole script against the grammar and the limits.
pub(super) fn check(script: &[u8], limits: &Limits) -> Result<(), ScriptError> {
    if memchr::memchr_iter(b'\n', script).count() as u64 > limits.max_script_lines {
        return Err(ScriptError::TooManyLines(limits.max_script_lines));
    }
    for command in commands(script) {
        let (line, command) = command?;
        if let Command::Add(text) | Command::Exchange { new: text, .. } = command
            && text.len() as u64 >= limits.max_line_bytes
        {
            return Err(ScriptError::LineTooLong(line));
        }
    }
    Ok(())
}

/// Keeps track of the open member.
fn follow<'a>(
    open: &mut Option<u64>,
    line: u64,
    command: Command<'a>,
) -> Result<(u64, Command<'a>), ScriptError> {
    match (command, &open) {
        (Command::Comment, _) => {}
        (Command::Open(_), None) => *open = Some(line),
        (Command::Move { .. } | Command::Unlink(_), None) => {}
        (Command::Open(_) | Command::Move { .. } | Command::Unlink(_), Some(_)) => {
            return Err(ScriptError::StillOpen(line));
        }
        (Command::Close, Some(_)) => *open = None,
        (Command::Add(_) | Command::Delete { .. } | Command::Exchange { .. }, Some(_)) => {}
        (_, None) => return Err(ScriptError::NotOpen(line)),
    }
    Ok((line, command))
}

fn parse_line(line: u64, text: &[u8]) -> Result<Command<'_>, ScriptError> {
    if text.is_empty() {
        return Err(ScriptError::Blank(line));
    }
    if text.ends_with(b"\r") {
        return Err(ScriptError::CarriageReturn(line));
    }
    if text.starts_with(b"#") {
        return Ok(Command::Comment);
    }
    let (word, rest) = split(text);
    let arguments_of = |command| Arguments { line, command, rest };
    Ok(match word {
        b"OPEN" => Command::Open(arguments_of("OPEN").last_name()?),
        b"ADD" => Command::Add(arguments_of("ADD").remainder()?),
        b"DEL" => {
            let mut arguments = arguments_of("DEL");
            Command::Delete { line: arguments.number()?, prefix: arguments.word()? }
        }
        b"XCHG" => {
            let mut arguments = arguments_of("XCHG");
            let (line, prefix) = (arguments.number()?, arguments.word()?);
            Command::Exchange { line, prefix, new: arguments.remainder()? }
        }
        b"CLOSE" => {
            arguments_of("CLOSE").end()?;
            Command::Close
        }
        b"MOVE" => arguments_of("MOVE").range()?,
        b"UNLINK" => Command::Unlink(arguments_of("UNLINK").last_name()?),
        _ => return Err(ScriptError::Unknown(line)),
    })
}

/// Splits at the first space; without one, the rest is `None`.
fn split(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b' ', text) {
        Some(space) => (&text[..space], Some(&text[space + 1..])),
        None => (text, None),
    }
}

/// The arguments of one command, taken from the left.
struct Arguments<'a> {
    line: u64,
    command: &'static str,
    rest: Option<&'a [u8]>,
}

impl<'a> Arguments<'a> {
    fn wrong(&self) -> ScriptError {
        ScriptError::Arguments { line: self.line, command: self.command }
    }
    fn remainder(&mut self) -> Result<&'a [u8], ScriptError> {
        self.rest.take().filter(|rest| !rest.is_empty()).ok_or_else(|| self.wrong())
    }
    fn word(&mut self) -> Result<&'a [u8], ScriptError> {
        let (word, rest) = split(self.remainder()?);
        self.rest = rest;
        if word.is_empty() { Err(self.wrong()) } else { Ok(word) }
    }
    /// A line number; there is no line 0.
    fn number(&mut self) -> Result<u32, ScriptError> {
        let word = std::str::from_utf8(self.word()?).map_err(|_| self.wrong())?;
        number("line", word).ok().filter(|&number| number > 0).ok_or_else(|| self.wrong())
    }
    fn name(&mut self) -> Result<&'a str, ScriptError> {
        let name = std::str::from_utf8(self.word()?).map_err(|_| ScriptError::Name(self.line))?;
        if is_member_name(name) { Ok(name) } else { Err(ScriptError::Name(self.line)) }
    }
    fn end(&mut self) -> Result<(), ScriptError> {
        if self.rest.is_none() { Ok(()) } else { Err(self.wrong()) }
    }
    fn last_name(&mut self) -> Result<&'a str, ScriptError> {
        let name = self.name()?;
        self.end().map(|()| name)
    }
    fn range(&mut self) -> Result<Command<'a>, ScriptError> {
        let (source, target) = (self.name()?, self.name()?);
        let (start, start_prefix) = (self.number()?, self.word()?);
        let (end, end_prefix) = (self.number()?, self.word()?);
        self.end()?;
        if end <= start {
            return Err(ScriptError::EmptyRange(self.line));
        }
        Ok(Command::Move { source, target, start, start_prefix, end, end_prefix })
    }
}
