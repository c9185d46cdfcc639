//! What cargo builds for us: the program under test, as its sources are now, and the suites of the simulation.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};
use zonekeeper_chaos::process;

/// The suites of `tests/sim` that are a part of the whole, and how much of each.
const SUITES: [(&str, &[(&str, &str)]); 2] =
    [("ordinary", &[("SIM_HOURS", "10000")]), ("simulation", &[("SIM_SEEDS", "2000"), ("SIM_HOURS", "100")])];

/// The cargo that started this program.
pub(crate) struct Cargo(OsString);

/// Programs by the names of their targets.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

impl Cargo {
    /// None where something else started it.
    pub(crate) fn started_us() -> Option<Cargo> {
        env::var_os("CARGO").map(Cargo)
    }

    /// Builds the program under test.
    pub(crate) fn zonekeeper(&self) -> Result<PathBuf, String> {
        let built = self.build(&["build", "-p", "zonekeeper", "--bin", "zonekeeper"])?;
        program(&built, "zonekeeper").cloned()
    }

    /// Builds the simulation.
    pub(crate) fn simulation(&self) -> Result<Programs, String> {
        let suites = SUITES.iter().flat_map(|(suite, _)| ["--test", suite]);
        self.build(
            &["test", "--no-run", "-p", "zonekeeper-sim"].into_iter().chain(suites).collect::<Vec<_>>(),
        )
    }

    /// A release build; cargo itself says where the programs are. Its progress goes where ours goes.
    fn build(&self, args: &[&str]) -> Result<Programs, String> {
        let mut cargo = Command::new(&self.0);
        cargo.args(args).args(["--release", "--message-format", "json-render-diagnostics"]);
        cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        let done = cargo.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo: {e}"))?;
        match done.status.success() {
            true => Ok(programs(&String::from_utf8_lossy(&done.stdout))),
            false => Err(format!("cargo {}: {}", args.join(" "), done.status)),
        }
    }
}

/// What cargo's messages say it has built.
fn programs(messages: &str) -> Programs {
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let (name, path) = (message["target"]["name"].as_str()?, message["executable"].as_str()?);
        Some((name.to_owned(), path.into()))
    };
    messages.lines().filter_map(program).collect()
}

fn program<'a>(built: &'a Programs, name: &str) -> Result<&'a PathBuf, String> {
    built.get(name).ok_or_else(|| format!("cargo did not say where it has put {name}"))
}

/// Runs the suites, which show how far they are; whether all of them passed.
pub(crate) fn simulate(built: &Programs, say: fn(&str)) -> Result<bool, String> {
    let mut good = true;
    for (suite, size) in SUITES {
        let words: Vec<String> = size.iter().map(|(name, value)| format!("{name}={value}")).collect();
        say(&format!("== simulation, {suite}: {}", words.join(" ")));
        let mut command = Command::new(program(built, suite)?);
        // with SIM_SEED a suite would replay that seed and nothing else
        command.arg("--nocapture").env_remove("SIM_SEED").envs(size.iter().copied());
        let status = end(command.stdout(io::stderr())).map_err(|e| format!("simulation, {suite}: {e}"))?;
        if !status.success() {
            say(&format!("NOT GOOD: simulation, {suite}: {status}"));
        }
        good &= status.success();
    }
    Ok(good)
}

/// Waits for the end, in vain once a signal has come that ends this program.
fn end(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if process::interrupted() {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("interrupted"));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_programs_are() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"zonekeeper_core"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"zonekeeper"},"executable":"/t/release/zonekeeper"}
{"reason":"build-finished","success":true}
"#;
        let built = programs(messages);
        assert_eq!(built.len(), 1);
        assert_eq!(program(&built, "zonekeeper"), Ok(&"/t/release/zonekeeper".into()));
        assert!(program(&built, "ordinary").is_err());
    }

    #[test]
    fn each_suite_must_pass() {
        let built = |simulation: &str| {
            Programs::from([
                ("ordinary".into(), "/bin/true".into()),
                ("simulation".into(), simulation.into()),
            ])
        };
        assert_eq!(simulate(&built("/bin/true"), |_| {}), Ok(true));
        assert_eq!(simulate(&built("/bin/false"), |_| {}), Ok(false));
        assert!(simulate(&Programs::new(), |_| {}).is_err());
    }
}
