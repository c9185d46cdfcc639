//! Plays `scenarios/NAME.txt`: `$ zonekeeper ...` runs a command (`$ operate: zonekeeper ...` with another role's
//! token), what follows is its output, `#` begins a comment.

use crate::{harness::Node, mask::mask};
use clap::Parser;
use std::{path::Path, process::ExitCode};
use zonekeeper_cli::{ClientArgs, run as run_command};

/// As the binary has it.
#[derive(Debug, Parser)]
#[command(name = "zonekeeper")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) client: ClientArgs,
}

/// Splits as a shell does, with double quotes only.
pub(crate) fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    out.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        out.push(word);
    }
    out
}

/// What a person would see.
pub(crate) async fn run(node: &Node, token: &str, args: &[&str]) -> String {
    let mut all = vec!["zonekeeper"];
    all.extend(args.first());
    if args.first().is_some_and(|command| *command != "check") {
        if !args.contains(&"--admin") {
            all.extend(["--admin", &node.url]); // else the arguments name another node
        }
        if !token.is_empty() {
            all.extend(["--token", token]);
        }
    }
    all.extend(args.iter().skip(1));
    let cli = match Cli::try_parse_from(all) {
        Ok(cli) => cli,
        Err(error) => return error.to_string(),
    };
    let mut out = Vec::new();
    let end = run_command(cli.client, &mut out).await;
    let mut text = String::from_utf8(out).unwrap();
    match end {
        Ok(code) if code == ExitCode::SUCCESS => {}
        Ok(code) => {
            let number = (1..=u8::MAX).find(|n| ExitCode::from(*n) == code);
            text.push_str(&format!("exit {}\n", number.unwrap()));
        }
        Err(error) => text.push_str(&format!("error: {error}\n")),
    }
    text
}

pub(crate) async fn play(name: &str, node: &Node) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cli/scenarios/{name}.txt"));
    let wanted = std::fs::read_to_string(&file).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-config");
    let places = [("DIR", dir.path().display().to_string()), ("CONFIG", config.display().to_string())];
    let mut got = String::new();
    for line in wanted.lines().filter(|l| l.starts_with(['#', '$']) || l.is_empty()) {
        got.push_str(line);
        got.push('\n');
        let Some(command) = line.strip_prefix("$ ") else { continue };
        let (token, command) = match command.split_once(": zonekeeper ") {
            Some(("read", rest)) => (&node.read, rest),
            Some(("operate", rest)) => (&node.operate, rest),
            _ => (&node.admin, command.strip_prefix("zonekeeper ").unwrap()),
        };
        let command = places.iter().fold(command.to_owned(), |c, (word, path)| c.replace(word, path));
        let args = words(&command);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let text = run(node, token, &args).await;
        let text = places.iter().fold(text, |t, (word, path)| t.replace(path, word));
        got.push_str(&mask(&text).replace("\n\n", "\n~\n"));
    }
    if std::env::var_os("UPDATE_SCENARIOS").is_some() {
        std::fs::write(&file, got).unwrap();
    } else if got != wanted {
        let differs = got.lines().zip(wanted.lines()).position(|(g, w)| g != w);
        let at = differs.unwrap_or_else(|| got.lines().count().min(wanted.lines().count()));
        let (g, w) = (got.lines().nth(at), wanted.lines().nth(at));
        panic!("{name}.txt:{}: expected {w:?}, got {g:?}; UPDATE_SCENARIOS=1 takes it over\n{got}", at + 1);
    }
}
