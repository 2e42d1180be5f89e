//! What a CDIFF's script does to a database's members.
//!
//! Guarantees ClamAV's result, or an error where ClamAV fails, loses data or dies. After an error the draft is useless: the
//! edits of members that were closed before it remain.
use super::{
    draft::{Draft, LineError, Text},
    limits::Limits,
    script::{self, Command, ScriptError},
};
use std::{collections::BTreeMap, io};

/// Why a script does not fit a database; script lines count from 1.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ApplyError {
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error("scratch file: {0}")]
    Scratch(#[from] io::Error),
    #[error("script line {at}: there is no member {member}")]
    NoMember { at: u64, member: String },
    #[error("script line {at}: {member} has {lines} lines, not {line}")]
    NoLine { at: u64, member: String, line: u32, lines: u32 },
    /// A line that starts otherwise than the script expects: it is for another version.
    #[error("script line {at}: line {line} of {member} does not start as expected")]
    Prefix { at: u64, member: String, line: u32 },
    #[error("script line {at}: the last line of {member} has no newline")]
    NoFinalNewline { at: u64, member: String },
    /// A member moved into itself, which ClamAV leaves undefined.
    #[error("script line {at}: {member} is moved into itself")]
    IntoItself { at: u64, member: String },
    #[error("script line {at}: {member} grows to more than {limit} bytes")]
    TooLarge { at: u64, member: String, limit: u64 },
}

/// The edits of one open member.
struct Edits<'s> {
    member: &'s str,
    /// By the line's number before any edit. The later of two edits of a line counts.
    lines: BTreeMap<u32, Edit<'s>>,
    added: Vec<&'s [u8]>,
}

struct Edit<'s> {
    at: u64,
    prefix: &'s [u8],
    /// The new line; `None` for a deletion.
    new: Option<&'s [u8]>,
}

/// Applies a whole script.
pub fn apply(draft: &mut Draft<'_>, script: &[u8], limits: &Limits) -> Result<(), ApplyError> {
    let mut open: Option<Edits<'_>> = None;
    for command in script::commands(script) {
        let (at, command) = command?;
        match (command, &mut open) {
            (Command::Open(member), _) => {
                open = Some(Edits { member, lines: BTreeMap::new(), added: Vec::new() });
            }
            (Command::Add(line), Some(edits)) => edits.added.push(line),
            (Command::Delete { line, prefix }, Some(edits)) => {
                edits.lines.insert(line, Edit { at, prefix, new: None });
            }
            (Command::Exchange { line, prefix, new }, Some(edits)) => {
                edits.lines.insert(line, Edit { at, prefix, new: Some(new) });
            }
            (Command::Close, edits) => {
                if let Some(edits) = edits.take() {
                    close(draft, at, &edits, limits)?;
                }
            }
            (Command::Move { source, target, start, start_prefix, end, end_prefix }, _) => {
                let ends = [(start, start_prefix), (end, end_prefix)];
                move_lines(draft, at, (source, target), ends, limits)?;
            }
            (Command::Unlink(member), _) => {
                if !draft.remove(member) {
                    return Err(ApplyError::NoMember { at, member: member.to_owned() });
                }
            }
            // `commands` refuses edits while no member is open.
            (Command::Comment | Command::Add(_) | Command::Delete { .. } | Command::Exchange { .. }, _) => {}
        }
    }
    draft.flush()?;
    Ok(())
}

fn close(draft: &mut Draft<'_>, at: u64, edits: &Edits<'_>, limits: &Limits) -> Result<(), ApplyError> {
    let member = edits.member;
    // ClamAV creates no empty member.
    if edits.lines.is_empty() && edits.added.is_empty() {
        return Ok(());
    }
    let old = match draft.get(member) {
        Some(text) => text.clone(),
        // ClamAV opens for appending, which creates a member; but that has no line to edit.
        None if edits.lines.is_empty() => Text::default(),
        None => return Err(ApplyError::NoMember { at, member: member.to_owned() }),
    };
    whole_lines(draft, at, member, &old)?;
    let spans =
        draft.locate(&old, edits.lines.keys().copied()).map_err(|error| line_error(at, member, error))?;
    let expected = spans.iter().zip(edits.lines.values()).map(|(span, edit)| (span.start, edit.prefix));
    let same = draft.compare(&old, expected)?;
    if let Some(((&line, edit), _)) = edits.lines.iter().zip(same).find(|(_, same)| !same) {
        return Err(ApplyError::Prefix { at: edit.at, member: member.to_owned(), line });
    }

    // The parts alternate: kept, edited line, kept, …, kept.
    let parts = old.cut(spans.iter().flat_map(|span| [span.start, span.end]));
    let mut new = Text::default();
    let mut replacements = edits.lines.values();
    for (index, part) in parts.iter().enumerate() {
        if index % 2 == 0 {
            new.extend(part);
        } else if let Some(line) = replacements.next().and_then(|edit| edit.new) {
            new.push(draft.append(line)?);
            new.push(draft.append(b"\n")?);
        }
    }
    for line in &edits.added {
        new.push(draft.append(line)?);
        new.push(draft.append(b"\n")?);
    }
    put(draft, at, member, new, limits)
}

fn move_lines(
    draft: &mut Draft<'_>,
    at: u64,
    (source, target): (&str, &str),
    ends: [(u32, &[u8]); 2],
    limits: &Limits,
) -> Result<(), ApplyError> {
    if source == target {
        return Err(ApplyError::IntoItself { at, member: source.to_owned() });
    }
    let no_member = |member: &str| ApplyError::NoMember { at, member: member.to_owned() };
    let from = draft.get(source).ok_or_else(|| no_member(source))?.clone();
    let mut to = draft.get(target).ok_or_else(|| no_member(target))?.clone();
    whole_lines(draft, at, source, &from)?;
    whole_lines(draft, at, target, &to)?;

    let lines = ends.map(|(line, _)| line);
    let spans = draft.locate(&from, lines).map_err(|error| line_error(at, source, error))?;
    let expected = spans.iter().zip(ends).map(|(span, (_, prefix))| (span.start, prefix));
    let same = draft.compare(&from, expected)?;
    if let Some((line, _)) = lines.into_iter().zip(same).find(|(_, same)| !same) {
        return Err(ApplyError::Prefix { at, member: source.to_owned(), line });
    }
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(()) };
    if let [before, moved, after] = from.cut([first.start, last.end]).as_slice() {
        let mut left = before.clone();
        left.extend(after);
        to.extend(moved);
        put(draft, at, source, left, limits)?;
        put(draft, at, target, to, limits)?;
    }
    Ok(())
}

fn put(draft: &mut Draft<'_>, at: u64, member: &str, text: Text, limits: &Limits) -> Result<(), ApplyError> {
    if text.size() > limits.max_member_bytes {
        return Err(ApplyError::TooLarge { at, member: member.to_owned(), limit: limits.max_member_bytes });
    }
    // What was appended must be readable before the next edit of this member looks for its lines.
    draft.flush()?;
    draft.put(member, text);
    Ok(())
}

fn whole_lines(draft: &Draft<'_>, at: u64, member: &str, text: &Text) -> Result<(), ApplyError> {
    if draft.is_whole_lines(text)? {
        return Ok(());
    }
    Err(ApplyError::NoFinalNewline { at, member: member.to_owned() })
}

fn line_error(at: u64, member: &str, error: LineError) -> ApplyError {
    match error {
        LineError::Scratch(error) => ApplyError::Scratch(error),
        LineError::Absent { line, lines } => {
            ApplyError::NoLine { at, member: member.to_owned(), line, lines }
        }
    }
}
