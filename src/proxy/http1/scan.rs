//! Finds the end of a head and refuses bytes that readers disagree on: many bytes at a time where the head came whole and is
//! good, else byte by byte and once per byte.

use super::{Answer, MAX_HEAD, MAX_TARGET};
use memchr::memchr;

/// Longest first line: a target at its limit with a method and a version around it.
const MAX_FIRST_LINE: usize = MAX_TARGET + 64;

/// What the bytes so far hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The head is not complete.
    More,
    /// The head has so many bytes, its empty line included.
    Head(usize),
    /// It cannot become a head.
    Bad(Answer),
}

/// Remembers how far it looked, so that a slow sender does not make it look twice.
#[derive(Debug, Default)]
pub struct Scanner {
    seen: usize,
    line: usize,
    first_line_ended: bool,
}

impl Scanner {
    /// Looks at the bytes that are new since the last call on the same head.
    pub fn scan(&mut self, buf: &[u8]) -> Scan {
        if self.seen == 0
            && let Some(len) = at_once(buf)
        {
            return Scan::Head(len);
        }
        let mut i = self.seen;
        while let Some(byte) = buf.get(i) {
            match byte {
                b'\t' | 0x20..=0x7e | 0x80.. => i += 1,
                // RFC 9112 §2.2: a bare CR is invalid, and a bare LF would be a line end to some and not to others.
                b'\r' => match buf.get(i + 1) {
                    None => break,
                    Some(b'\n') if i == self.line && i + 2 > MAX_HEAD => {
                        return Scan::Bad(Answer::HeadTooLarge);
                    }
                    Some(b'\n') if i == self.line => return Scan::Head(i + 2),
                    Some(b'\n') if !self.first_line_ended && i > MAX_FIRST_LINE => {
                        return Scan::Bad(Answer::TargetTooLong);
                    }
                    Some(b'\n') => {
                        i += 2;
                        self.line = i;
                        self.first_line_ended = true;
                    }
                    Some(_) => return Scan::Bad(Answer::Malformed("a CR without LF in the head")),
                },
                b'\n' => return Scan::Bad(Answer::Malformed("an LF without CR in the head")),
                _ => return Scan::Bad(Answer::Malformed("a control byte in the head")),
            }
        }
        self.seen = i;
        match buf.len() {
            n if !self.first_line_ended && n > MAX_FIRST_LINE => Scan::Bad(Answer::TargetTooLong),
            n if n >= MAX_HEAD => Scan::Bad(Answer::HeadTooLarge),
            _ => Scan::More,
        }
    }
}

/// The length of a head that came whole and has nothing to refuse, as nearly all do. Each line feed has its CR, and there
/// are no other control bytes: those are counted and not looked for, many at a time.
fn at_once(buf: &[u8]) -> Option<usize> {
    let (mut line, mut lines) = (0, 0);
    let len = loop {
        let end = line + memchr(b'\n', &buf[line..])?;
        let long = end > if lines == 0 { MAX_FIRST_LINE } else { MAX_HEAD - 1 };
        if long || end == line || buf[end - 1] != b'\r' {
            return None;
        }
        lines += 1;
        if end == line + 1 {
            break end + 1;
        }
        line = end + 1;
    };
    (controls(&buf[..len]) == 2 * lines).then_some(len)
}

/// How many control bytes there are, tabs not counted.
fn controls(buf: &[u8]) -> usize {
    let control = |b: &u8| u8::from((*b < 0x20 && *b != b'\t') || *b == 0x7f);
    let few = |chunk: &[u8]| usize::from(chunk.iter().map(control).sum::<u8>());
    buf.chunks(128).map(few).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_came_at_once_is_judged_as_one_that_trickled_in() {
        let trickle = |buf: &[u8]| {
            let mut scanner = Scanner::default();
            let scans = (1..=buf.len()).map(|n| scanner.scan(&buf[..n]));
            scans.into_iter().find(|s| *s != Scan::More).unwrap_or(Scan::More)
        };
        let whole = b"GET /a HTTP/1.1\r\nHost: w.example\r\nAccept: */*\r\n\r\n";
        for place in 0..whole.len() {
            for byte in 0..=255u8 {
                let mut head = whole.to_vec();
                head[place] = byte;
                assert_eq!(Scanner::default().scan(&head), trickle(&head), "{byte} at {place}");
            }
        }
        for n in [MAX_FIRST_LINE, MAX_HEAD] {
            for n in n - 40..n + 4 {
                let long = [b"GET /", &vec![b'a'; n][..], b" HTTP/1.1\r\n\r\n"].concat();
                let field = [b"GET / HTTP/1.1\r\nA: ", &vec![b'a'; n][..], b"\r\n\r\n"].concat();
                for head in [long, field] {
                    let mut in_two = Scanner::default();
                    assert_eq!(in_two.scan(&head[..1]), Scan::More);
                    assert_eq!(Scanner::default().scan(&head), in_two.scan(&head), "{n}");
                }
            }
        }
    }

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..head.len() - 4 {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.scan(&head[..cut]), Scan::More, "{cut}");
            assert_eq!(scanner.scan(head), Scan::Head(head.len() - 4), "{cut}");
        }
    }

    #[test]
    fn bytes_with_two_readings_are_refused() {
        for bad in ["GET / HTTP/1.1\nHost: a\r\n\r\n", "GET /\r HTTP/1.1\r\n\r\n", "GET /\0 HTTP/1.1\r\n\r\n"]
        {
            assert!(
                matches!(Scanner::default().scan(bad.as_bytes()), Scan::Bad(Answer::Malformed(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_head_without_end_is_refused_at_its_limit() {
        let long = vec![b'a'; MAX_HEAD];
        assert_eq!(Scanner::default().scan(&long), Scan::Bad(Answer::TargetTooLong));
        let fields = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &long].concat();
        assert_eq!(Scanner::default().scan(&fields), Scan::Bad(Answer::HeadTooLarge));
        let ended = [fields.as_slice(), b"\r\n\r\n"].concat();
        assert_eq!(Scanner::default().scan(&ended), Scan::Bad(Answer::HeadTooLarge));
    }
}
