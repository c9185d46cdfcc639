//! Hides what differs from run to run.

/// Times, log indexes, generations, ages, secrets.
pub(crate) fn mask(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(&mask_line(line));
        out.push('\n');
    }
    out
}

fn mask_line(line: &str) -> String {
    let mut line = times(line);
    for word in ["index ", "revision ", "generation 0.", "epoch 0.", "TIME 0.", "at index ", "term "] {
        line = digits_after(&line, word);
    }
    if let Some((before, after)) = line.split_once("confirmed ") {
        let after = after.split_once(" ago").map_or("", |(_, rest)| rest);
        line = format!("{before}confirmed AGE ago{after}");
    }
    if let Some(at) = line.find("cluster key ").map(|at| at + "cluster key ".len()) {
        let rest = line[at..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
        if line.len() - at - rest.len() == 16 {
            line = format!("{}KEY{rest}", &line[..at]);
        }
    }
    for secret in ["zk_", "zkjoin1-"] {
        if let Some(at) = line.find(secret) {
            let end = line[at..].find(' ').map_or(line.len(), |n| at + n);
            line.replace_range(at..end, &format!("{secret}SECRET"));
        }
    }
    line
}

/// `2026-01-02T03:04:05.678Z` becomes `TIME`.
fn times(line: &str) -> String {
    let shape = "dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |s: &str| {
        s.chars().zip(shape.chars()).all(|(c, p)| if p == 'd' { c.is_ascii_digit() } else { c == p })
    };
    let mut out = line.to_owned();
    let mut at = 0;
    while at + shape.len() <= out.len() {
        match out.get(at..at + shape.len()) {
            Some(s) if fits(s) => out.replace_range(at..at + shape.len(), "TIME"),
            _ => {}
        }
        at += 1;
    }
    out
}

fn digits_after(line: &str, word: &str) -> String {
    let mut parts = line.split(word);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(word);
        out.push_str(if rest.len() < part.len() { "N" } else { "" });
        out.push_str(rest);
    }
    out
}
