//! What the documents and the help texts say can be typed.
//!
//! Every command line is run by the real binary, in an empty folder and with an admin API that nobody serves: it may
//! fail for want of a file or a node, but not for the way it is written (clap ends with status 2). The three-site
//! walk of the README is played for real.

use crate::support::{Process, address, exe, options, turn, until, wait};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use zonekeeper_chaos::lab::{ADMIN, PEER};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// `zonekeeper …` and `cargo run … -- …` in code blocks.
fn commands(text: &str) -> BTreeSet<String> {
    let blocks = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    let indented = text.lines().filter(|l| l.starts_with("  "));
    blocks.chain(indented).filter_map(command).collect()
}

/// The same between backticks: a command is mentioned there, with or without its arguments.
fn mentions(text: &str) -> BTreeSet<String> {
    text.lines().flat_map(|l| l.split('`').skip(1).step_by(2)).filter_map(command).collect()
}

/// The arguments of one command line, without what explains it.
fn command(line: &str) -> Option<String> {
    let line = line.split(" #").next().unwrap_or_default().trim();
    let line = line.split("   ").next().unwrap_or_default().trim();
    let own = line.strip_prefix("zonekeeper ");
    let args = own.or_else(|| line.strip_prefix("cargo run ")?.split_once("-- ").map(|(_, args)| args))?;
    // a family of commands, as `site …`, and a word on its own, as `zonekeeper keys`, are no command lines
    let words = args.split_whitespace().count();
    (!args.contains('…') && words > 0).then(|| args.to_owned())
}

/// Splits as a shell does, as far as the documents need it.
fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        match i % 2 {
            1 => out.push(part.to_owned()),
            _ => out.extend(part.split_whitespace().map(|w| match w {
                "ID" => "4".to_owned(),
                w => w.to_owned(),
            })),
        }
    }
    out
}

/// Runs a command line where nothing is; the text of clap's complaint, if it has one.
fn complaint(folder: &Path, line: &str) -> Option<String> {
    let args = words(line);
    let bare = args.len() == 1
        && !["status", "check", "plan", "apply", "events", "demo"].contains(&args[0].as_str());
    let mut command = Command::new(exe());
    command.current_dir(folder).args(&args);
    if bare || ["demo", "serve"].contains(&args[0].as_str()) {
        command.arg("--help"); // these would run: clap reads the line up to here all the same
    }
    command.env("ZONEKEEPER_ADMIN", "http://127.0.0.1:1").env("ZONEKEEPER_TOKEN", "none");
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    until(&format!("`zonekeeper {line}` ends"), Duration::from_secs(20), || {
        process.0.try_wait().unwrap().is_some()
    });
    let mut said = String::new();
    std::io::Read::read_to_string(process.0.stderr.as_mut().unwrap(), &mut said).unwrap();
    let status = process.0.wait().unwrap();
    (status.code() == Some(2) || said.contains("Usage:")).then_some(said)
}

#[test]
fn every_command_line_of_the_documents_can_be_typed() {
    let mut lines = BTreeSet::new();
    for file in ["README.md", "deploy/README.md", "cluster-config/README.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let (whole, mentioned) = (commands(&text), mentions(&text));
        assert!(whole.len() + mentioned.len() > 0, "{file} names no command");
        lines.extend(whole);
        // what is mentioned must exist, with the flags that are named; its arguments may be left out
        lines.extend(mentioned.into_iter().map(|line| line + " --help"));
    }
    for unit in fs::read_dir(root().join("deploy")).unwrap().map(|f| f.unwrap().path()) {
        let text = fs::read_to_string(&unit).unwrap_or_default();
        let start = |l: &str| Some(l.strip_prefix("ExecStart=")?.split_once("zonekeeper ")?.1.to_owned());
        lines.extend(text.lines().filter_map(start));
    }
    assert!(lines.len() > 15, "{lines:?}");
    all_parse(&lines);
}

#[test]
fn every_example_of_the_help_texts_can_be_typed() {
    let mut examples = BTreeSet::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(path) = open.pop() {
        let done = Command::new(exe()).args(&path).arg("--help").output().unwrap();
        assert!(done.status.success(), "{path:?} --help");
        let help = String::from_utf8_lossy(&done.stdout).into_owned();
        examples.extend(help.lines().filter(|l| l.starts_with("  ")).filter_map(command));
        let listed = help
            .split_once("Commands:\n")
            .map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
        let names = listed.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
        for name in names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help") {
            open.push(path.iter().cloned().chain([name.to_owned()]).collect());
        }
    }
    assert!(examples.len() > 40, "{} examples: {examples:?}", examples.len());
    all_parse(&examples);
}

fn all_parse(lines: &BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let wrong: Vec<String> = lines
        .iter()
        .filter_map(|line| complaint(folder.path(), line).map(|why| format!("zonekeeper {line}\n{why}")))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_command_line_would_be_found() {
    let folder = tempfile::tempdir().unwrap();
    for line in
        ["member promte 2", "site drain fra", "demo --victim nobody", "serve --dns nowhere", "status --jsn"]
    {
        assert!(complaint(folder.path(), line).is_some(), "{line}");
    }
    assert_eq!(complaint(folder.path(), "member promote 2"), None);
}

/// The block of the README under a heading.
fn block(heading: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let section = text.split_once(&format!("## {heading}\n")).unwrap().1;
    let code = section.split_once("```sh\n").unwrap().1.split("```").next().unwrap();
    code.lines().filter_map(command).collect()
}

#[test]
fn the_three_sites_of_the_readme_come_up_as_written() {
    let _turn = turn();
    let mut lab = zonekeeper_chaos::lab::Lab::empty(options()).unwrap();
    let lines = block("Three sites");
    let real = |lab: &zonekeeper_chaos::lab::Lab, line: &str| {
        let line = line.replace("192.0.2.2:8054", &lab.nodes[1].at(PEER).to_string());
        line.replace("192.0.2.3:8054", &lab.nodes[2].at(PEER).to_string())
    };
    lab.prepare().unwrap();
    let token = lab.data(0).join("admin.token");
    for line in &lines {
        let line = real(&lab, line);
        let args = words(&line);
        let verb = args[0].clone();
        match verb.as_str() {
            // the laboratory has done it, with its own addresses
            "keys" => {}
            "run" => {
                let node =
                    lab.nodes.iter().position(|n| line.contains(&format!("node-{}.toml", n.id))).unwrap();
                let more: Vec<&str> = args[3..].iter().map(String::as_str).collect();
                lab.spawn(node, &more).unwrap();
                wait(&lab, "the node listens", Duration::from_secs(20), |lab| lab.lives(node));
            }
            verb => {
                let args = if verb == "apply" { [&args[..], &["--yes".into()]].concat() } else { args };
                let begun = Instant::now();
                let done = Command::new(exe())
                    .current_dir(lab.folder())
                    .args(&args)
                    .env("ZONEKEEPER_ADMIN", format!("http://{}", lab.nodes[0].at(ADMIN)))
                    .env("ZONEKEEPER_TOKEN_FILE", &token)
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                let (out, err) =
                    (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
                let fine =
                    if args[0] == "plan" { done.status.code() == Some(2) } else { done.status.success() };
                assert!(fine, "zonekeeper {line}: {out}{err}{}", lab.tails());
                eprintln!("zonekeeper {line}: {:?}", begun.elapsed());
            }
        }
    }
    assert!(lines.len() >= 9, "{lines:?}");
}

#[test]
fn the_one_line_starts_of_the_readme_serve() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let ip = address();
    fs::copy(root().join("cluster-config/zones/example.com.zone"), folder.path().join("example.com.zone"))
        .unwrap();
    let lines = block("Start small");
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        let line = line.replace("127.0.0.1", &ip.to_string());
        let mut serve = Command::new(exe());
        serve.current_dir(folder.path()).args(words(&line)).stdout(Stdio::piped());
        let mut process = Process::start(&mut serve);
        let mut said = std::io::BufReader::new(process.0.stdout.take().unwrap());
        let mut first = String::new();
        std::io::BufRead::read_line(&mut said, &mut first).unwrap();
        assert!(first.contains(&ip.to_string()), "zonekeeper {line}: {first}");
        process.stop();
    }
}
