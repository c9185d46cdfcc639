//! What can be typed.

mod client;
mod config;
mod steer;
mod things;

pub use client::ClientArgs;
pub use config::{ApplyArgs, CheckArgs, ExportArgs, PlanArgs};
pub use steer::{BackendCommand, OverrideArgs, ServiceCommand, SiteCommand, duration};
pub use things::{
    AutomationCommand, BackupArgs, CertificateCommand, ClusterCommand, EventsArgs, ExplainArgs,
    MemberCommand, SecretsCommand, TimingCommand, TokenCommand, WebhookCommand, ZoneCommand,
};

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which node, which token, which form.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Admin API of any node.
    #[arg(
        long,
        global = true,
        env = "ZONEKEEPER_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:8053"
    )]
    pub admin: String,
    /// Token; better in a file or in the environment, since arguments show in the list of processes.
    #[arg(long, global = true, env = "ZONEKEEPER_TOKEN", value_name = "SECRET", hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the token.
    #[arg(long, global = true, env = "ZONEKEEPER_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// JSON instead of tables, as the API gave it.
    #[arg(long, global = true)]
    pub json: bool,
    /// Reads what a quorum confirms now, or fails.
    #[arg(long, global = true)]
    pub linearizable: bool,
}

/// Commands that speak the admin API.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// The cluster at a glance: leader, members, services, alarms.
    #[command(after_help = "Examples:\n  zonekeeper status\n  zonekeeper status --json --linearizable")]
    Status,
    /// Sites: show, drain, force up or down, release.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Services: show, drain at a site, force, release, move, fail over, fail back.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Backends of the proxy's pools: show, drain, force down, release.
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Zones and their records: show, edit, import, remove.
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// Members: show, join tokens, add, promote, demote, remove, hand over leadership.
    #[command(subcommand)]
    Member(MemberCommand),
    /// The cluster version, which every program in the cluster knows: raise it.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The last decisions, or everything as it happens.
    #[command(
        after_help = "Examples:\n  zonekeeper events\n  zonekeeper events --follow\n  zonekeeper events --follow --json"
    )]
    Events(EventsArgs),
    /// What DNS answers to a question, and why; or where the proxy sends a request.
    #[command(
        after_help = "Examples:\n  zonekeeper explain www.example.com\n  zonekeeper explain www.example.com AAAA --client 198.51.100.7\n  zonekeeper explain --request www.example.com/api/users"
    )]
    Explain(ExplainArgs),
    /// Tokens: show, create, remove.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Shows the difference from what runs to what is declared.
    #[command(
        after_help = "Examples:\n  zonekeeper plan cluster-config\n\nExit status: 0 no difference, 2 there is one, 1 an error."
    )]
    Plan(PlanArgs),
    /// Makes what is declared run, visible at one index.
    #[command(after_help = "Examples:\n  zonekeeper apply cluster-config --yes")]
    Apply(ApplyArgs),
    /// Writes what runs as configuration files.
    #[command(after_help = "Examples:\n  zonekeeper export exported-config")]
    Export(ExportArgs),
    /// Writes a backup of the whole state, consistent at one log index; for `restore`. Its common secrets are sealed: keep the key folder apart from it.
    #[command(after_help = "Examples:\n  zonekeeper backup /var/backups/zonekeeper-2026-11-26.zkb")]
    Backup(BackupArgs),
    /// Webhooks: show, add, remove.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Certificates that the cluster holds for the listeners of all nodes: show, put, remove.
    #[command(subcommand)]
    Certificate(CertificateCommand),
    /// Raft timing of the cluster.
    #[command(subcommand)]
    Timing(TimingCommand),
    /// The common secrets (DNS cookies, sessions, webhooks): show how far their rollovers are, begin one.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Automation: on or off, for all services or one.
    #[command(subcommand)]
    Automation(AutomationCommand),
}
