//! The corpus as data: cases, read from the text files.

/// What one case sends, and what must come of it.
#[derive(Debug, Default, Clone)]
pub struct Case {
    pub name: String,
    /// The client's bytes.
    pub request: Vec<u8>,
    /// The backend's bytes for the first request; none: it answers "ok".
    pub response: Option<Vec<u8>>,
    /// No `GET /after` follows.
    pub alone: bool,
    /// The backend ends the connection behind its response.
    pub closes: bool,
    /// The backend does not wait for the request's body.
    pub early: bool,
    pub client: String,
    pub backend: String,
    pub sees: Vec<Vec<u8>>,
    pub hides: Vec<Vec<u8>>,
    pub shows: Vec<Vec<u8>>,
    pub conceals: Vec<Vec<u8>>,
    /// The sentence that justifies ours where a peer differs.
    pub why: String,
}

/// Reads a corpus file. Anything that is not understood is a panic that names the line.
pub fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "===" {
            cases.push(Case { name: rest.into(), ..Case::default() });
            continue;
        }
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("line {}: no case yet", i + 1));
        match word {
            ">" => case.request.extend(bytes(rest)),
            "<" => case.response.get_or_insert_default().extend(bytes(rest)),
            "alone" => case.alone = true,
            "closes" => case.closes = true,
            "early" => case.early = true,
            "client" => case.client = expand(rest),
            "backend" => case.backend = expand(rest),
            "sees" => case.sees.push(bytes(rest)),
            "hides" => case.hides.push(bytes(rest)),
            "shows" => case.shows.push(bytes(rest)),
            "conceals" => case.conceals.push(bytes(rest)),
            "why" => case.why = rest.into(),
            _ => panic!("line {}: what is {word:?}?", i + 1),
        }
    }
    for case in &mut cases {
        if case.request.is_empty() && case.response.is_some() {
            case.request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        }
        assert!(!case.client.is_empty() && !case.backend.is_empty(), "{} expects nothing", case.name);
    }
    cases
}

/// `{text*9}` nine times.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').map_or(rest.len(), |c| open + c);
        let repeated = rest[open + 1..close].rsplit_once('*').and_then(|(t, n)| Some((t, n.parse().ok()?)));
        let Some((piece, times)) = repeated else { break };
        out += &rest[..open];
        out += &str::repeat(piece, times);
        rest = &rest[close + 1..];
    }
    out + rest
}

/// The bytes that a text stands for.
fn bytes(text: &str) -> Vec<u8> {
    let text = expand(text).replace('⏎', "\r\n");
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, used) = match (first, tail) {
            (b'\\', [b'r', ..]) => (b'\r', 1),
            (b'\\', [b'n', ..]) => (b'\n', 1),
            (b'\\', [b'x', a, b, ..]) => {
                let digits = [*a, *b];
                let hex = std::str::from_utf8(&digits).unwrap();
                (u8::from_str_radix(hex, 16).unwrap(), 3)
            }
            _ => (first, 0),
        };
        out.push(byte);
        rest = &tail[used..];
    }
    out
}
