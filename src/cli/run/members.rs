//! `member`.

use super::Session;
use crate::{
    command::MemberCommand,
    error::CliError,
    show::{Table, age, or_dash},
};
use zonekeeper_api::wire::{JoinSecret, Member, NewJoin, NewMember, Written};
use zonekeeper_core::entry::Duty;

pub(super) async fn member(s: &mut Session<'_>, command: MemberCommand) -> Result<(), CliError> {
    let empty = serde_json::json!({});
    match command {
        MemberCommand::List => {
            let members = s.client.get::<Vec<Member>>("/v1/members").await?;
            if !s.json(&members)? {
                table(&members.data).print(s.out, "no members")?;
            }
        }
        MemberCommand::Token { life } => {
            let new = NewJoin { expires_in_s: life.as_secs() };
            let made: JoinSecret = s.client.post("/v1/members/joins", &new).await?;
            if !s.json(&made)? {
                writeln!(s.out, "{}", made.token)?;
                writeln!(s.out, "good for one node until {}; it is not shown again", made.expires)?;
            }
        }
        MemberCommand::Add { id, site, peer, api, witness } => {
            let duty = if witness { Duty::Witness } else { Duty::Full };
            let new = NewMember { id, site, duty, peer, admin: api };
            let written: Written = s.client.post("/v1/members", &new).await?;
            s.wrote(&written, &format!("node {id} is a learner and has caught up"))?;
        }
        MemberCommand::Promote { id } => {
            let written: Written = s.client.post(&format!("/v1/members/{id}/promote"), &empty).await?;
            s.wrote(&written, &format!("node {id} votes"))?;
        }
        MemberCommand::Demote { id } => {
            let written: Written = s.client.post(&format!("/v1/members/{id}/demote"), &empty).await?;
            s.wrote(&written, &format!("node {id} votes no more"))?;
        }
        MemberCommand::Remove { id, yes: _ } => {
            let written: Written = s.client.delete(&format!("/v1/members/{id}"), &[]).await?;
            s.wrote(&written, &format!("node {id} is removed; its id is never used again"))?;
        }
        MemberCommand::Lead { id } => {
            let written: Written = s.client.post(&format!("/v1/members/{id}/lead"), &empty).await?;
            s.wrote(&written, &format!("node {id} leads"))?;
        }
    }
    Ok(())
}

pub(super) fn table(members: &[Member]) -> Table {
    let mut table = Table::new(&["NODE", "SITE", "ROLE", "PEER", "LINK", "RTT", "LAG", "REPORT", "NOTE"]);
    for m in members {
        let role = if m.leader { "leader".to_owned() } else { m.role.clone() };
        let link = m.link.map(|l| if l.up { "up" } else { "DOWN" });
        let rtt = m.link.and_then(|l| l.rtt_us).map(|us| format!("{}.{:02} ms", us / 1000, us % 1000 / 10));
        let duty = (m.duty == Duty::Witness).then(|| "witness".to_owned());
        let note: Vec<String> =
            duty.into_iter().chain(m.abstains.iter().map(|w| format!("abstains: {w}"))).collect();
        table.row([
            m.id.to_string(),
            m.site.to_string(),
            role,
            m.peer.to_string(),
            or_dash(link),
            or_dash(rtt),
            or_dash(m.lag),
            age(m.report_age_ms),
            note.join("; "),
        ]);
    }
    table
}
