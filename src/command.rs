//! The command line: what each command needs, and how it ends.

use crate::{
    anew, demo,
    handover::{self, Line, Predecessor, Sockets},
    keys,
    node::{self, Node, Start},
    priority, serve,
};
use clap::{Parser, Subcommand, ValueEnum};
use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use zonekeeper_cli::ClientArgs;
use zonekeeper_config::NodeConfig;
use zonekeeper_core::entry::Timing;

/// Keeps a service reachable when a whole site dies.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  zonekeeper run --config node.toml --bootstrap   the first node of a new cluster, once
  zonekeeper run --config node.toml --new         the first start of a node that `member add` brings in
  zonekeeper run --config node.toml               every later start")]
    Run {
        /// The node file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Found a new cluster with this node; writes the admin token to DATA_DIR/admin.token
        #[arg(long, conflicts_with = "new")]
        bootstrap: bool,
        /// First start of a node whose data directory is empty
        #[arg(long)]
        new: bool,
        /// Raft timing of the new cluster; it can be changed while the cluster runs
        #[arg(long, value_enum, default_value = "lan", requires = "bootstrap")]
        timing: Preset,
    },
    /// Get this node's keys from a member, with a token of `zonekeeper member token`
    #[command(after_help = "Example:
  zonekeeper join --config node.toml --via 192.0.2.1:8054 --token zkjoin1-…
  zonekeeper run --config node.toml")]
    Join {
        /// The node file of the new node
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Peer address of a member that holds the CA key
        #[arg(long, value_name = "ADDR:PORT")]
        via: SocketAddr,
        /// The join token
        #[arg(long, env = "ZONEKEEPER_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// Stay a learner: receive everything, answer, do not vote
        #[arg(long)]
        learner: bool,
    },
    /// Begin a new cluster with what a backup holds; this node is its first member
    #[command(after_help = "Example:
  zonekeeper keys new new-keys --nodes 1=fra,2=ams,3=iad
  zonekeeper restore zonekeeper-2026-11-26.zkb --config node.toml
  zonekeeper run --config node.toml

The node file names the new keys and an empty data directory. Everything is as in the backup but for the members: the
others join as ever. Serials, epochs and generations are ahead of all that the old cluster served.")]
    Restore {
        /// A file of `zonekeeper backup`
        file: PathBuf,
        /// The node file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Number of the incarnation; give a greater one than was ever used when an old backup is restored once more
        #[arg(long, value_name = "NUMBER")]
        incarnation: Option<u32>,
    },
    /// Make this survivor a cluster of one: only when a majority of the voters is lost for good
    #[command(after_help = "Example, on a survivor that is stopped:
  zonekeeper recover --config node.toml --reason \"fra and ams burnt down\" --yes
  zonekeeper run --config node.toml

Take the survivor with the highest log index (`zonekeeper status --json`: log.last). It refuses while a majority may be
alive. The lost nodes must never be started again: wipe them. The act stands in the log with its reason.")]
    Recover {
        /// The node file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Yes: the other voters are lost for good
        #[arg(long, short = 'y', required = true)]
        yes: bool,
    },
    /// Make or look at the keys of a cluster
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Run a one-node cluster from flags alone: a DNS server, a proxy, or both
    #[command(after_help = "Examples:
  zonekeeper serve --dns 127.0.0.1:5300 --zone example.com=example.com.zone
  zonekeeper serve --http 127.0.0.1:8080=127.0.0.1:9001,127.0.0.1:9002
  zonekeeper serve --dir state --dns 127.0.0.1:5300 --zone example.com=example.com.zone --tcp 127.0.0.1:8081=127.0.0.1:9001")]
    Serve(Box<serve::Serve>),
    /// Three sites as three processes on this machine, to try or to script
    Demo(demo::Demo),
    #[command(flatten)]
    Client(ClientArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    /// Round trips up to 25 ms
    Lan,
    /// Round trips up to 100 ms
    Wan,
    /// Round trips up to 200 ms
    Global,
}

impl Args {
    /// Runs the command to its end.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Run { config, bootstrap, new, timing } => run(&config, start(bootstrap, new, timing)),
            Command::Join { config, via, token, learner } => join(&config, via, &token, !learner),
            Command::Restore { file, config, incarnation } => {
                load(&config).and_then(|config| anew::restore(&config, &file, incarnation))
            }
            Command::Recover { config, reason, yes: _ } => {
                load(&config).and_then(|config| anew::recover(&config, &reason))
            }
            Command::Keys(keys) => keys.run().map_err(|e| e.to_string()),
            Command::Serve(serve) => serve.run(),
            Command::Demo(demo) => demo.run(),
            Command::Client(command) => return client(command),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                complain(&why);
                ExitCode::FAILURE
            }
        }
    }
}

/// A command that speaks the admin API; it chooses its own exit status.
fn client(command: ClientArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(zonekeeper_cli::run(command, &mut io::stdout())) {
        Ok(code) => code,
        Err(error) => {
            complain(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "the one place where a command's failure is told")]
fn complain(why: &str) {
    eprintln!("zonekeeper: {why}");
}

fn start(bootstrap: bool, new: bool, timing: Preset) -> Start {
    match (bootstrap, new) {
        (true, _) => Start::Bootstrap(match timing {
            Preset::Lan => Timing::Lan,
            Preset::Wan => Timing::Wan,
            Preset::Global => Timing::Global,
        }),
        (_, true) => Start::New,
        _ => Start::Again,
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn load(path: &Path) -> Result<NodeConfig, String> {
    NodeConfig::load(path).map_err(|problems| format!("{} is not usable\n{problems}", path.display()))
}

/// The control plane's runtime: Raft, probes, API.
pub(crate) fn control_runtime() -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("control").on_thread_start(priority::control).enable_all().build()
}

/// The data path's runtime: DNS over TCP. UDP and proxy have threads of their own.
pub(crate) fn data_runtime() -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("data").on_thread_start(priority::data).enable_all().build()
}

fn run(path: &Path, start: Start) -> Result<(), String> {
    let config = load(path)?;
    log_to_stderr(config.log_level.as_str());
    let (control, data) =
        (control_runtime().map_err(|e| e.to_string())?, data_runtime().map_err(|e| e.to_string())?);
    let handle = data.handle().clone();
    // spawned, so that it runs on a thread with the control plane's priority
    let node = control.spawn(async move {
        let (sockets, line) = inherit().await?;
        let start = if line.is_successor() { Start::Again } else { start };
        let node = Node::start(config, start, &handle, sockets).await.map_err(|e| chain(&e))?;
        let signals = Signals::new()?;
        line.ready();
        until_end(node, signals, true).await
    });
    control.block_on(node).map_err(|e| e.to_string())?
}

/// What the process before this one hands over, if this is its successor.
pub(crate) async fn inherit() -> Result<(Sockets, Line), String> {
    // from here on SIGUSR2 does not end the process
    let _ = signal(SignalKind::user_defined2());
    let taken = blocking(Line::of_environment).await;
    taken.map_err(|e| format!("nothing was handed over: {e}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Runs a node until SIGTERM or Ctrl-C ends it, or SIGUSR2 hands it over to a new process of the same program.
pub(crate) async fn until_end(mut node: Node, mut signals: Signals, lasting: bool) -> Result<(), String> {
    handover::tell_ready();
    loop {
        let ended = tokio::select! {
            () = signals.end.recv() => Ok(()),
            why = failed(&mut node) => Err(why),
            _ = signals.hand_over.recv() => {
                let begun = tokio::select! {
                    begun = begin(&node, lasting) => Some(begun),
                    () = signals.end.recv() => None,
                };
                match begun {
                    Some(Ok(successor)) => return hand_over(node, successor, signals.end).await,
                    Some(Err(error)) => {
                        tracing::error!(%error, "nothing was handed over, this process goes on");
                        continue;
                    }
                    None => Ok(()), // and the successor finds nobody
                }
            }
        };
        tokio::select! {
            () = node.stop() => {}
            () = signals.end.recv() => tracing::warn!("a second signal: stopped without draining"),
        }
        return ended;
    }
}

async fn begin(node: &Node, lasting: bool) -> io::Result<Predecessor> {
    if !lasting {
        return Err(io::Error::other("its state is temporary; give --dir"));
    }
    let dir = node.data_dir().to_owned();
    blocking(move || Predecessor::begin(&dir, &handover::program()?)).await
}

/// From here on there is no way back: a successor has the store. One that fails is followed by another.
async fn hand_over(node: Node, successor: Predecessor, mut end: End) -> Result<(), String> {
    let (dir, linger) = (node.data_dir().to_owned(), node.linger());
    let Some(data) = node.let_go().await else { return Ok(()) };
    let finish = async |successor: Predecessor| {
        let sockets = data.sockets().await?;
        blocking(move || successor.finish(&sockets)).await
    };
    if let Err(error) = finish(successor).await {
        tracing::error!(%error, "the new process failed; the binary that runs now is started anew");
        let again = blocking(move || Predecessor::begin(&dir, &handover::running())).await;
        let again = match again {
            Ok(successor) => finish(successor).await,
            Err(error) => Err(error),
        };
        if let Err(error) = again {
            tracing::error!(%error, "it failed, too; this process goes on answering with what it knows");
            end.recv().await;
            data.stop(linger).await;
            return Err("the hand-over failed".into());
        }
    }
    tokio::select! {
        () = data.leave(linger) => {}
        () = end.recv() => {}
    }
    Ok(())
}

/// Waits until the node has failed for good. A store that fails is said once; the node goes on answering, unless it is
/// new and has nothing to answer.
async fn failed(node: &mut Node) -> String {
    let why = node.failed().await;
    if node.consensus.is_fresh() {
        return why;
    }
    tracing::error!(%why, "this node writes nothing any more and goes on answering; mend the cause and restart it");
    std::future::pending().await
}

/// The signals of a node, received from when this is made: one that comes between two waits is not lost.
#[derive(Debug)]
pub(crate) struct Signals {
    end: End,
    /// SIGUSR2.
    hand_over: Signal,
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Made before anybody is told that the node runs: until then SIGTERM ends the process at once.
    pub(crate) fn new() -> Result<Signals, String> {
        let of = |kind| signal(kind).map_err(|e| format!("signals cannot be received: {e}"));
        Ok(Signals {
            end: End { terminate: of(SignalKind::terminate())?, interrupt: of(SignalKind::interrupt())? },
            hand_over: of(SignalKind::user_defined2())?,
        })
    }
}

impl End {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn join(path: &Path, via: SocketAddr, token: &str, votes: bool) -> Result<(), String> {
    let config = load(path)?;
    log_to_stderr("warn");
    let runtime = control_runtime().map_err(|e| e.to_string())?;
    runtime.block_on(node::join(&config, via, token, votes)).map_err(|e| chain(&e))
}

/// Structured logs to stderr; `RUST_LOG` overrides the level. The access log of listeners that have one is there at any
/// level, in JSON lines for the programs that read it.
pub(crate) fn log_to_stderr(level: &str) {
    use tracing_subscriber::{
        EnvFilter, Layer as _,
        filter::{FilterExt as _, filter_fn},
        fmt::layer,
        layer::SubscriberExt as _,
        util::SubscriberInitExt as _,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!("{level},openraft=error,sled=warn,hyper=warn,h2=warn,rustls=error,hickory_server=error,hickory_net=error"))
    });
    let access = |of: bool| filter_fn(move |event| (event.target() == zonekeeper_proxy::ACCESS_LOG) == of);
    let text = layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let lines = layer().json().flatten_event(true).with_writer(io::stderr);
    let logs = tracing_subscriber::registry().with(text.with_filter(filter.and(access(false))));
    let _ = logs.with(lines.with_filter(access(true))).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn only_commands_that_ask_a_node_have_the_flags_for_it() {
        let mut all = <Args as clap::CommandFactory>::command();
        all.build();
        let has = |path: &[&str]| {
            let found = path.iter().try_fold(&all, |c, name| c.find_subcommand(name));
            found.unwrap_or_else(|| panic!("{path:?}")).get_arguments().any(|a| a.get_id() == "admin")
        };
        for path in [&["run"][..], &["serve"], &["demo"], &["join"], &["keys"], &["keys", "new"], &["check"]]
        {
            assert!(!has(path), "{path:?}");
        }
        for path in [&["status"][..], &["plan"], &["site", "drain"], &["member", "token"], &["timing", "set"]]
        {
            assert!(has(path), "{path:?}");
        }
        let status = all.find_subcommand("status").and_then(|c| c.get_about()).map(ToString::to_string);
        assert!(status.is_some_and(|about| about.starts_with("The cluster at a glance")));
        let read = |line: &str| Args::try_parse_from(line.split(' ')).map(|a| a.command);
        for line in [
            "zonekeeper site --admin http://a:1 show --json",
            "zonekeeper site show --json --admin http://a:1",
        ] {
            let Ok(Command::Client(ClientArgs::Node(_, flags))) = read(line) else { panic!("{line}") };
            assert_eq!((flags.admin.as_str(), flags.json), ("http://a:1", true), "{line}");
        }
        assert!(read("zonekeeper run --config a --token b").is_err());
    }

    /// A remedy that is copied from a message or a page works as it stands.
    #[test]
    fn what_must_be_confirmed_is_named_with_its_yes() {
        let all = <Args as clap::CommandFactory>::command();
        let asks = |c: &clap::Command| c.get_arguments().any(|a| a.get_id() == "yes" && a.is_required_set());
        let mut paths = Vec::new();
        for topic in all.get_subcommands() {
            let within = topic.get_subcommands().filter(|c| asks(c));
            paths.extend(within.map(|c| format!("zonekeeper {} {} ", topic.get_name(), c.get_name())));
        }
        assert!(paths.iter().any(|path| path.contains("member remove")), "{paths:?}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = vec![root.join("README.md"), root.join("src"), root.join("deploy")];
        let mut named = 0;
        while let Some(file) = files.pop() {
            if file.is_dir() {
                files.extend(std::fs::read_dir(&file).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for (at, _) in paths.iter().flat_map(|path| text.match_indices(path)) {
                let line = text[at..].split(['`', '"', '\n']).next().unwrap();
                assert!(line.contains("--yes"), "{}: {line}", file.display());
                named += 1;
            }
        }
        assert!(named > 4, "{named}");
    }
}
