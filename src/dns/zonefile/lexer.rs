//! Entries of a zone file (RFC 1035 §5.1): tokens, with parentheses, quotes, escapes and comments resolved.

use std::io::{self, BufRead};

/// Longest entry, parentheses included: more than any RRset may have.
const MAX_ENTRY: usize = 1 << 20;

/// One word or one quoted string, its escapes as they stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) raw: &'a [u8],
    pub(super) quoted: bool,
}

impl Token<'_> {
    /// For messages and for what is plain ASCII.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.raw)
    }
}

/// Takes the escapes of RFC 1035 §5.1 out: `\DDD` and `\X`.
pub(super) fn unescape(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(raw.len());
    let mut i = 0;
    while i < raw.len() {
        if raw[i] != b'\\' {
            out.push(raw[i]);
            i += 1;
            continue;
        }
        match raw.get(i + 1..i + 4).filter(|d| d.iter().all(u8::is_ascii_digit)) {
            Some(d) => {
                let n = d.iter().fold(0u16, |n, c| n * 10 + u16::from(c - b'0'));
                out.push(u8::try_from(n).map_err(|_| format!("escape \\{n} is above \\255"))?);
                i += 4;
            }
            None => {
                out.push(*raw.get(i + 1).ok_or("a backslash stands at the end")?);
                i += 2;
            }
        }
    }
    Ok(out)
}

/// One entry: a directive or a record.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// The line where it begins, from 1.
    pub(super) line: u32,
    /// It begins with a blank: the owner is the last one's.
    pub(super) indented: bool,
    bytes: Vec<u8>,
    tokens: Vec<(usize, usize, bool)>,
}

impl Entry {
    pub(super) fn tokens(&self) -> Vec<Token<'_>> {
        let of = |&(from, to, quoted): &(usize, usize, bool)| Token { raw: &self.bytes[from..to], quoted };
        self.tokens.iter().map(of).collect()
    }
}

/// Reads a file entry by entry, in the memory of one.
pub(super) struct Lexer<R> {
    reader: R,
    line: Vec<u8>,
    number: u32,
}

/// Why there is no next entry.
pub(super) enum Stop {
    /// The file ends.
    End,
    /// The entry that begins on this line is malformed; the next one can be read.
    Bad(u32, String),
    /// The file cannot be read on.
    Io(io::Error),
}

impl<R: BufRead> Lexer<R> {
    pub(super) fn new(reader: R) -> Lexer<R> {
        Lexer { reader, line: Vec::new(), number: 0 }
    }

    /// Reads the next entry that is not empty.
    pub(super) fn next(&mut self, entry: &mut Entry) -> Result<(), Stop> {
        entry.tokens.clear();
        entry.bytes.clear();
        let mut depth = 0u32;
        loop {
            self.line.clear();
            if self.reader.read_until(b'\n', &mut self.line).map_err(Stop::Io)? == 0 {
                return Err(match depth {
                    0 => Stop::End,
                    _ => Stop::Bad(entry.line, "a parenthesis is never closed".into()),
                });
            }
            self.number += 1;
            if depth == 0 {
                entry.line = self.number;
                entry.indented = matches!(self.line.first(), Some(b' ' | b'\t'));
            }
            let line = std::mem::take(&mut self.line);
            let scanned = scan(&line, entry, &mut depth);
            self.line = line;
            scanned.map_err(|e| Stop::Bad(self.number, e))?;
            if entry.bytes.len() > MAX_ENTRY {
                return Err(Stop::Bad(entry.line, format!("the entry is longer than {MAX_ENTRY} bytes")));
            }
            if depth == 0 && !entry.tokens.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Adds the tokens of one line.
fn scan(line: &[u8], entry: &mut Entry, depth: &mut u32) -> Result<(), String> {
    let mut i = 0;
    while i < line.len() {
        match line[i] {
            b' ' | b'\t' | b'\r' | b'\n' => i += 1,
            b';' => return Ok(()),
            b'(' => (*depth, i) = (*depth + 1, i + 1),
            b')' => {
                (*depth, i) =
                    (depth.checked_sub(1).ok_or("a parenthesis is closed that was not opened")?, i + 1)
            }
            b'"' => {
                let end = word_end(line, i + 1, |b| b == b'"');
                if line.get(end) != Some(&b'"') {
                    return Err("a quoted string is not closed on its line".into());
                }
                push(entry, &line[i + 1..end], true);
                i = end + 1;
            }
            _ => {
                let end = word_end(line, i, |b| {
                    matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"')
                });
                let value = line[..end].ends_with(b"=") && line.get(end) == Some(&b'"'); // alpn="h2,h3"
                let end = if value { word_end(line, end + 1, |b| b == b'"') + 1 } else { end };
                let word = line.get(i..end).ok_or("a quoted string is not closed on its line")?;
                push(entry, word, false);
                i = end;
            }
        }
    }
    Ok(())
}

/// The first place from `i` where `stop` holds for a byte that no backslash covers.
fn word_end(line: &[u8], mut i: usize, stop: impl Fn(u8) -> bool) -> usize {
    while i < line.len() && !stop(line[i]) {
        i += if line[i] == b'\\' { 2 } else { 1 };
    }
    i.min(line.len())
}

fn push(entry: &mut Entry, word: &[u8], quoted: bool) {
    let from = entry.bytes.len();
    entry.bytes.extend_from_slice(word);
    entry.tokens.push((from, from + word.len(), quoted));
}
