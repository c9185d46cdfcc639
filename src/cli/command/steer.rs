//! Sites, services and backends.

use clap::{Args, Subcommand};
use std::{net::SocketAddr, time::Duration};
use zonekeeper_core::id::{PoolId, ServiceId, SiteId};

/// Why, and for how long.
#[derive(Debug, Args)]
pub struct OverrideArgs {
    /// Why, for whoever finds it later.
    #[arg(long, short = 'r')]
    pub reason: String,
    /// Ends by itself after so long, as `90s`, `30m`, `2h`, `7d`; without it, it stays until it is released.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub life: Option<Duration>,
}

/// A duration on the command line, in whole seconds and not 0: `90s`, `30m`, `2h`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and a unit, as 90s, 30m, 2h or 7d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// `site`.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// All sites, or one.
    #[command(after_help = "Examples:\n  zonekeeper site show\n  zonekeeper site show fra")]
    Show {
        /// The site.
        site: Option<SiteId>,
    },
    /// No new traffic to a site.
    #[command(after_help = "Examples:\n  zonekeeper site drain fra --reason \"power work\" --for 2h")]
    Drain {
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Counts as healthy, whatever is observed.
    #[command(
        after_help = "Examples:\n  zonekeeper site force-up ams --reason \"probes are wrong\" --for 30m"
    )]
    ForceUp {
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Counts as down, whatever is observed; never answered.
    #[command(after_help = "Examples:\n  zonekeeper site force-down iad --reason \"wrong data there\"")]
    ForceDown {
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Takes the word on a site back.
    #[command(after_help = "Examples:\n  zonekeeper site release fra")]
    Release {
        /// The site.
        site: SiteId,
    },
}

/// `service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// All services, or one with every site's health and the reasons.
    #[command(after_help = "Examples:\n  zonekeeper service show\n  zonekeeper service show web")]
    Show {
        /// The service.
        service: Option<ServiceId>,
    },
    /// Moves a failover service to a site by hand; it stays until that site fails.
    #[command(after_help = "Examples:\n  zonekeeper service move web ams")]
    Move {
        /// The service.
        service: ServiceId,
        /// The site.
        to: SiteId,
    },
    /// Moves a failover service away from where it is, to the next usable site.
    #[command(after_help = "Examples:\n  zonekeeper service failover web")]
    Failover {
        /// The service.
        service: ServiceId,
    },
    /// Moves a service back to the first usable site of its order.
    #[command(after_help = "Examples:\n  zonekeeper service failback web")]
    Failback {
        /// The service.
        service: ServiceId,
    },
    /// No new traffic to one service at a site.
    #[command(
        after_help = "Examples:\n  zonekeeper service drain web fra --reason \"new release\" --for 30m"
    )]
    Drain {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Counts as healthy at a site, whatever is observed.
    #[command(
        after_help = "Examples:\n  zonekeeper service force-up web ams --reason \"probes are wrong\" --for 30m"
    )]
    ForceUp {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Counts as down at a site, whatever is observed; never answered there.
    #[command(
        after_help = "Examples:\n  zonekeeper service force-down web iad --reason \"wrong data there\""
    )]
    ForceDown {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Takes the word on a service at a site back.
    #[command(after_help = "Examples:\n  zonekeeper service release web fra")]
    Release {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
    },
}

/// `backend`.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// All pools with their backends, as the asked node sees them.
    #[command(after_help = "Examples:\n  zonekeeper backend show")]
    Show,
    /// No new traffic to a backend.
    #[command(
        after_help = "Examples:\n  zonekeeper backend drain web 10.1.0.11:8000 --reason \"new kernel\" --for 30m"
    )]
    Drain {
        /// The pool.
        pool: PoolId,
        /// The backend.
        backend: SocketAddr,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Counts as down, whatever the checks say.
    #[command(
        after_help = "Examples:\n  zonekeeper backend force-down web 10.1.0.11:8000 --reason \"broken disk\""
    )]
    ForceDown {
        /// The pool.
        pool: PoolId,
        /// The backend.
        backend: SocketAddr,
        #[command(flatten)]
        #[allow(missing_docs, reason = "flattened; see OverrideArgs")]
        why: OverrideArgs,
    },
    /// Takes the word on a backend back.
    #[command(after_help = "Examples:\n  zonekeeper backend release web 10.1.0.11:8000")]
    Release {
        /// The pool.
        pool: PoolId,
        /// The backend.
        backend: SocketAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "5", "s", "0s", "1y", "-1s", "1.5h", "99999999999999999999s", "300000000000000d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
