//! One command against one node.

mod backup;
mod events;
mod members;
mod steer;
mod things;
mod zones;

use crate::{
    client::Client,
    command::{ClientArgs, ClientCommand},
    error::CliError,
    files,
    show::{Table, age, list, or_dash},
};
use serde::Serialize;
use std::{io::Write, process::ExitCode};
use zonekeeper_api::wire::{Cluster, Member, Service, Written};

/// Runs one command and writes its output. The exit code says what the text says: 0 fine, 1 an error, 2 `plan` found
/// differences.
pub async fn run(client: ClientArgs, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (command, global) = match client {
        ClientArgs::Offline(args) => return files::check(&args, out),
        ClientArgs::Node(command, global) => (command, global),
    };
    let mut session = Session { client: Client::new(&global)?, json: global.json, out };
    let s = &mut session;
    match command {
        ClientCommand::Status => status(s).await?,
        ClientCommand::Site(c) => steer::site(s, c).await?,
        ClientCommand::Service(c) => steer::service(s, c).await?,
        ClientCommand::Backend(c) => steer::backend(s, c).await?,
        ClientCommand::Zone(c) => zones::zone(s, c).await?,
        ClientCommand::Member(c) => members::member(s, c).await?,
        ClientCommand::Events(c) => events::events(s, c).await?,
        ClientCommand::Explain(c) => things::explain(s, c).await?,
        ClientCommand::Token(c) => things::token(s, c).await?,
        ClientCommand::Webhook(c) => things::webhook(s, c).await?,
        ClientCommand::Certificate(c) => things::certificate(s, c).await?,
        ClientCommand::Timing(c) => things::timing(s, c).await?,
        ClientCommand::Cluster(c) => things::cluster(s, c).await?,
        ClientCommand::Secrets(c) => things::secrets(s, c).await?,
        ClientCommand::Automation(c) => things::automation(s, c).await?,
        ClientCommand::Plan(c) => return files::plan_command(s, &c).await,
        ClientCommand::Apply(c) => return files::apply(s, &c).await,
        ClientCommand::Backup(c) => backup::backup(s, &c).await?,
        ClientCommand::Export(c) => files::export(s, &c).await?,
    }
    session.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A command on its way.
pub(crate) struct Session<'a> {
    pub(crate) client: Client,
    pub(crate) json: bool,
    pub(crate) out: &'a mut dyn Write,
}

impl Session<'_> {
    /// The answer as JSON; true when that was asked for.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<bool, CliError> {
        if self.json {
            let text = serde_json::to_string_pretty(value).map_err(|e| CliError::Usage(e.to_string()))?;
            writeln!(self.out, "{text}")?;
        }
        Ok(self.json)
    }

    /// One line about a write.
    pub(crate) fn wrote(&mut self, written: &Written, what: &str) -> Result<(), CliError> {
        if !self.json(written)? {
            let seen = if written.published { "" } else { "; the asked node has not published it yet" };
            writeln!(self.out, "{what} (index {}{seen})", written.index)?;
        }
        Ok(())
    }
}

async fn status(s: &mut Session<'_>) -> Result<(), CliError> {
    let cluster = s.client.get::<Cluster>("/v1/cluster").await?;
    let members = s.client.get::<Vec<Member>>("/v1/members").await?;
    let services = s.client.get::<Vec<Service>>("/v1/services").await?;
    if s.json {
        let all = serde_json::json!({"cluster": cluster, "members": members, "services": services});
        return s.json(&all).map(|_| ());
    }
    overview(s.out, &cluster.data, &cluster.generation.to_string(), cluster.age_ms)?;
    writeln!(s.out)?;
    members::table(&members.data).print(s.out, "no members")?;
    writeln!(s.out)?;
    steer::services(&services.data).print(s.out, "no services")?;
    Ok(())
}

fn overview(out: &mut dyn Write, c: &Cluster, generation: &str, age_ms: Option<u64>) -> Result<(), CliError> {
    let leader = match (c.leader, c.role.as_str()) {
        (Some(n), _) => format!("node {n}, term {}", c.term),
        (None, "stopped") => "Raft has stopped on this node".into(),
        (None, _) => "none: answers go on, nothing can be changed".into(),
    };
    let automation = if c.automation { "on" } else { "OFF: nothing moves by itself" };
    let lines = [
        ("cluster", c.id.clone()),
        ("asked", format!("node {} at {} ({})", c.node, c.site, c.role)),
        ("leader", leader),
        ("voters", list(&c.voters)),
        ("version", c.version.to_string()),
        ("state", format!("generation {generation}, confirmed {} ago, revision {}", age(age_ms), c.revision)),
        ("timing", c.timing.to_string()),
        ("automation", automation.into()),
        ("overrides", c.overrides.to_string()),
    ];
    for (name, text) in lines {
        writeln!(out, "{name:<11} {text}")?;
    }
    if let Some(o) = &c.origin {
        let incarnation = o.at.incarnation;
        writeln!(out, "incarnation {incarnation}, begun {} by {}: {}", o.time, o.author, o.reason)?;
    }
    for alarm in &c.alarms {
        writeln!(out, "ALARM       {alarm}")?;
    }
    for problem in &c.problems {
        writeln!(out, "PROBLEM     {}", problem.text)?;
    }
    if let Some(why) = &c.abstains {
        writeln!(out, "ABSTAINS    {why}")?;
    }
    Ok(())
}

/// A table of names and values that were only asked for to be looked at.
pub(crate) fn pairs(head: [&'static str; 2], rows: impl Iterator<Item = (String, Option<String>)>) -> Table {
    let mut table = Table::new(&head);
    rows.for_each(|(a, b)| table.row([a, or_dash(b)]));
    table
}
