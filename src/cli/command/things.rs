//! Zones, members, tokens, webhooks, certificates, timing, automation, events, explanations.

use super::steer::duration;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use zonekeeper_core::{
    entry,
    id::{CertificateId, NodeId, ServiceId, SiteId},
    name::Name,
};

/// `zone`.
#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    /// All zones, or one.
    #[command(after_help = "Examples:\n  zonekeeper zone show\n  zonekeeper zone show example.com")]
    Show {
        /// The zone.
        zone: Option<Name>,
    },
    /// Records of a zone, as a zone file shows them.
    #[command(
        after_help = "Examples:\n  zonekeeper zone records example.com\n  zonekeeper zone records example.com --name www.example.com --type A"
    )]
    Records {
        /// The zone.
        zone: Name,
        /// Only this owner name.
        #[arg(long)]
        name: Option<Name>,
        /// Only this type.
        #[arg(long = "type", value_name = "TYPE")]
        rtype: Option<String>,
    },
    /// Creates or replaces the records of a name and type.
    #[command(
        after_help = "Examples:\n  zonekeeper zone put dyn.example.com host A 192.0.2.10 192.0.2.11 --ttl 60\n  zonekeeper zone put dyn.example.com @ MX \"10 mail\""
    )]
    Put {
        /// The zone.
        zone: Name,
        /// The owner name; without a final dot it lies in the zone, and `@` is its apex.
        name: String,
        /// The type, as `AAAA` or `TYPE65280`.
        #[arg(value_name = "TYPE")]
        rtype: String,
        /// RDATA of each record in presentation form.
        #[arg(required = true)]
        records: Vec<String>,
        /// Seconds.
        #[arg(long, default_value_t = 300)]
        ttl: u32,
    },
    /// Removes the records of a name and type.
    #[command(after_help = "Examples:\n  zonekeeper zone remove dyn.example.com host A")]
    Remove {
        /// The zone.
        zone: Name,
        /// The owner name.
        name: String,
        /// The type.
        #[arg(value_name = "TYPE")]
        rtype: String,
    },
    /// Makes a zone that the API owns, from a zone file.
    #[command(after_help = "Examples:\n  zonekeeper zone create example.net example.net.zone")]
    Create {
        /// The zone.
        zone: Name,
        /// The zone file.
        file: PathBuf,
    },
    /// Removes a zone that the API owns, with all its records.
    #[command(after_help = "Examples:\n  zonekeeper zone delete example.net --yes")]
    Delete {
        /// The zone.
        zone: Name,
        /// Yes, with all its records.
        #[arg(long, short = 'y', required = true)]
        yes: bool,
    },
}

/// `member`.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// All members.
    #[command(after_help = "Examples:\n  zonekeeper member list")]
    List,
    /// Makes a join token: one node may join with it, once.
    #[command(after_help = "Examples:\n  zonekeeper member token --for 1h")]
    Token {
        /// How long it is good.
        #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration)]
        life: Duration,
    },
    /// Adds a running node as a learner and waits until it has caught up.
    #[command(
        after_help = "Examples:\n  zonekeeper member add 4 --site ams --peer 192.0.2.4:7300\n  zonekeeper member add 5 --site iad --peer 192.0.2.5:7300 --witness"
    )]
    Add {
        /// Its id; never one that was used before.
        id: NodeId,
        /// Its site.
        #[arg(long)]
        site: SiteId,
        /// Where its peers reach it.
        #[arg(long, value_name = "ADDR:PORT")]
        peer: SocketAddr,
        /// Where its admin API is reached.
        #[arg(long, value_name = "ADDR:PORT")]
        api: Option<SocketAddr>,
        /// It votes and observes only.
        #[arg(long)]
        witness: bool,
    },
    /// Makes a learner a voter.
    #[command(after_help = "Examples:\n  zonekeeper member promote 4")]
    Promote {
        /// The member.
        id: NodeId,
    },
    /// Makes a voter a learner.
    #[command(after_help = "Examples:\n  zonekeeper member demote 4")]
    Demote {
        /// The member.
        id: NodeId,
    },
    /// Removes a node, dead or alive. Its id is never used again.
    #[command(after_help = "Examples:\n  zonekeeper member remove 4 --yes")]
    Remove {
        /// The member.
        id: NodeId,
        /// Yes, for ever.
        #[arg(long, short = 'y', required = true)]
        yes: bool,
    },
    /// Hands leadership to a voter.
    #[command(after_help = "Examples:\n  zonekeeper member lead 2")]
    Lead {
        /// The member.
        id: NodeId,
    },
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Goes on: everything as it happens.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Only decisions on this service; without `--follow`.
    #[arg(long, conflicts_with = "follow")]
    pub service: Option<ServiceId>,
    /// At most so many decisions; without `--follow`.
    #[arg(long, default_value_t = 20, conflicts_with = "follow")]
    pub limit: usize,
    /// Shows the evidence of each decision; without `--follow`.
    #[arg(long, conflicts_with = "follow")]
    pub evidence: bool,
    /// Ends after so many events.
    #[arg(long, requires = "follow", hide = true)]
    pub count: Option<usize>,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A new file; readable by its owner alone.
    pub file: PathBuf,
}

/// `explain`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["name", "request"])))]
pub struct ExplainArgs {
    /// The name that is asked for.
    pub name: Option<Name>,
    /// The type.
    #[arg(value_name = "TYPE", default_value = "A", requires = "name")]
    pub rtype: String,
    /// The client's address.
    #[arg(long, value_name = "ADDR")]
    pub client: Option<IpAddr>,
    /// A request to the proxy, as `host/path?query` or `POST host/path`.
    #[arg(long, value_name = "[METHOD ]HOST/PATH")]
    pub request: Option<String>,
    /// A header of that request, as `name: value` (repeatable).
    #[arg(long, value_name = "NAME: VALUE", requires = "request")]
    pub header: Vec<String>,
}

/// What a token allows; each includes the ones before.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// Sees everything but secrets.
    Read,
    /// Drains, forces, moves, edits records of API zones.
    Operate,
    /// Changes configuration, members and tokens.
    Admin,
}

impl From<Role> for entry::Role {
    fn from(role: Role) -> entry::Role {
        match role {
            Role::Read => entry::Role::Read,
            Role::Operate => entry::Role::Operate,
            Role::Admin => entry::Role::Admin,
        }
    }
}

/// `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// All tokens, without their secrets.
    #[command(after_help = "Examples:\n  zonekeeper token list")]
    List,
    /// Makes a token and shows its secret, once.
    #[command(
        after_help = "Examples:\n  zonekeeper token create grafana --role read\n  zonekeeper token create ana --role operate --for 90d"
    )]
    Create {
        /// Its name: the author of what is done with it.
        name: String,
        /// What it allows.
        #[arg(long, value_enum)]
        role: Role,
        /// Ends by itself after so long.
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        life: Option<Duration>,
    },
    /// Removes a token.
    #[command(after_help = "Examples:\n  zonekeeper token remove ana")]
    Remove {
        /// Its name.
        name: String,
    },
}

/// `webhook`.
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// All webhooks, without their keys.
    #[command(after_help = "Examples:\n  zonekeeper webhook list")]
    List,
    /// Makes or replaces a webhook and shows its key, once.
    #[command(after_help = "Examples:\n  zonekeeper webhook add http://127.0.0.1:9000/zonekeeper")]
    Add {
        /// Receives a POST for each announcement.
        url: String,
        /// File that holds the key of the signature; without it one is made.
        #[arg(long, value_name = "PATH")]
        key_file: Option<PathBuf>,
    },
    /// Removes a webhook.
    #[command(after_help = "Examples:\n  zonekeeper webhook remove http://127.0.0.1:9000/zonekeeper")]
    Remove {
        /// Its URL.
        url: String,
    },
}

/// `certificate`.
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// All certificates that the cluster holds, without their keys.
    #[command(after_help = "Examples:\n  zonekeeper certificate list")]
    List,
    /// Makes or replaces a certificate: every node has it for new handshakes from that index on.
    #[command(
        after_help = "Examples:\n  zonekeeper certificate put www --cert www.example.com.pem --key www.example.com.key"
    )]
    Put {
        /// Its name, for `tls = { certificate = "NAME" }` of a listener.
        name: CertificateId,
        /// PEM file with the certificate and its intermediates.
        #[arg(long, value_name = "PATH")]
        cert: PathBuf,
        /// PEM file of its key; without it the key stands in the other file.
        #[arg(long, value_name = "PATH")]
        key: Option<PathBuf>,
    },
    /// Removes a certificate that no listener uses.
    #[command(after_help = "Examples:\n  zonekeeper certificate remove www")]
    Remove {
        /// Its name.
        name: CertificateId,
    },
}

/// `timing`.
#[derive(Debug, Subcommand)]
pub enum TimingCommand {
    /// The timing that runs.
    #[command(after_help = "Examples:\n  zonekeeper timing show")]
    Show,
    /// Sets the timing; all nodes change over while they run.
    #[command(after_help = "Examples:\n  zonekeeper timing set wan\n  zonekeeper timing set 320")]
    Set {
        /// `lan`, `wan`, `global`, or the heartbeat in milliseconds (50 to 5000).
        timing: String,
    },
}

/// `cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Raises the cluster version by one, after the program of every node was upgraded. There is no way back.
    #[command(after_help = "Examples:\n  zonekeeper cluster upgrade --yes")]
    Upgrade {
        /// Nodes with an older program cannot join any more.
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Replaces the cluster key, seals every common secret anew and rolls it; done by itself when a member was removed.
    #[command(after_help = "Examples:\n  zonekeeper cluster rekey --yes")]
    Rekey {
        /// Backups from before can be restored with an older cluster.key alone.
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// `secrets`.
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// The cluster key, and how far the rollovers are.
    #[command(after_help = "Examples:\n  zonekeeper secrets show")]
    Show,
    /// Begins a rollover: a new secret is accepted at once and used a minute later; the old one ends later (cookies an
    /// hour, sessions a day).
    #[command(
        after_help = "Examples:\n  zonekeeper secrets roll dns-cookie\n  zonekeeper secrets roll session"
    )]
    Roll {
        /// `dns-cookie`, or `session` (TLS session tickets and sticky cookies).
        name: String,
    },
}

/// `automation`.
#[derive(Debug, Subcommand)]
pub enum AutomationCommand {
    /// Switches automation on.
    #[command(after_help = "Examples:\n  zonekeeper automation on\n  zonekeeper automation on web")]
    On {
        /// One service; without it all.
        service: Option<ServiceId>,
    },
    /// Switches automation off: nothing moves by itself.
    #[command(after_help = "Examples:\n  zonekeeper automation off\n  zonekeeper automation off web")]
    Off {
        /// One service; without it all.
        service: Option<ServiceId>,
    },
}
