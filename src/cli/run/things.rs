//! `explain`, `token`, `webhook`, `certificate`, `timing`, `automation`.

use super::{Session, pairs};
use crate::{
    client::escape,
    command::{
        AutomationCommand, CertificateCommand, ClusterCommand, ExplainArgs, SecretsCommand, TimingCommand,
        TokenCommand, WebhookCommand,
    },
    error::CliError,
    show::{Table, or_dash},
};
use std::path::PathBuf;
use zonekeeper_api::wire::{
    Certificate, Cluster, CommonSecret, CommonSecrets, DnsExplanation, NewCertificate, NewToken, NewWebhook,
    RequestExplanation, Switch, TimingSetting, TimingWritten, Token, TokenSecret, Webhook, WebhookSecret,
    Written,
};
use zonekeeper_core::{
    entry::Role,
    id::{CertificateId, ServiceId},
};

pub(super) async fn explain(s: &mut Session<'_>, args: ExplainArgs) -> Result<(), CliError> {
    if let Some(request) = &args.request {
        return explain_request(s, request, &args).await;
    }
    let Some(name) = &args.name else { return Err(CliError::Usage("give a name".into())) };
    let mut query = vec![("name", name.to_string()), ("type", args.rtype.clone())];
    query.extend(args.client.map(|c| ("client", c.to_string())));
    let seen = s.client.get_with::<DnsExplanation>("/v1/explain", &query).await?;
    if s.json(&seen)? {
        return Ok(());
    }
    let e = &seen.data;
    writeln!(s.out, "{} {}: {}", e.name, e.rtype, e.rcode)?;
    e.answer.iter().try_for_each(|r| writeln!(s.out, "  {r}"))?;
    e.authority.iter().try_for_each(|r| writeln!(s.out, "  authority: {r}"))?;
    writeln!(s.out, "why:")?;
    Ok(e.why.iter().try_for_each(|w| writeln!(s.out, "  - {w}"))?)
}

async fn explain_request(s: &mut Session<'_>, request: &str, args: &ExplainArgs) -> Result<(), CliError> {
    let (method, place) = request.trim().split_once(' ').unwrap_or(("GET", request));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let mut query =
        vec![("method", method.to_owned()), ("host", host.to_owned()), ("path", format!("/{path}"))];
    if !args.header.is_empty() {
        query.push(("header", args.header.join("\n")));
    }
    query.extend(args.client.iter().map(|c| ("client", c.to_string())));
    let seen = s.client.get_with::<Vec<RequestExplanation>>("/v1/explain/request", &query).await?;
    if s.json(&seen)? {
        return Ok(());
    }
    if seen.data.is_empty() {
        writeln!(s.out, "the asked node's site has no HTTP listener")?;
    }
    for e in &seen.data {
        let to = e.target.as_deref().unwrap_or("no route");
        writeln!(s.out, "listener {}: {to}", or_dash(e.listener.as_ref()))?;
        e.candidates.iter().try_for_each(|c| writeln!(s.out, "  may go to {c}"))?;
        e.why.iter().try_for_each(|w| writeln!(s.out, "  - {w}"))?;
    }
    Ok(())
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}

pub(super) async fn token(s: &mut Session<'_>, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::List => {
            let tokens = s.client.get::<Vec<Token>>("/v1/tokens").await?;
            if !s.json(&tokens)? {
                let mut table = Table::new(&["NAME", "ROLE", "EXPIRES"]);
                for t in &tokens.data {
                    table.row([t.name.clone(), role(t.role).into(), or_dash(t.expires.as_ref())]);
                }
                table.print(s.out, "no tokens")?;
            }
            Ok(())
        }
        TokenCommand::Create { name, role, life } => {
            let new = NewToken { name, role: role.into(), expires_in_s: life.map(|l| l.as_secs()) };
            let made: TokenSecret = s.client.post("/v1/tokens", &new).await?;
            if !s.json(&made)? {
                writeln!(s.out, "{}", made.secret)?;
                let until = made.expires.map(|e| format!(", until {e}")).unwrap_or_default();
                writeln!(
                    s.out,
                    "token {} ({}{until}); the secret is not shown again",
                    made.name,
                    self::role(made.role)
                )?;
            }
            Ok(())
        }
        TokenCommand::Remove { name } => {
            let written: Written = s.client.delete(&format!("/v1/tokens/{}", escape(&name)), &[]).await?;
            s.wrote(&written, &format!("token {name} is removed"))
        }
    }
}

fn text_of(path: PathBuf) -> Result<String, CliError> {
    std::fs::read_to_string(&path).map_err(|source| CliError::File { path, source })
}

pub(super) async fn certificate(s: &mut Session<'_>, command: CertificateCommand) -> Result<(), CliError> {
    let at = |name: &CertificateId| format!("/v1/certificates/{}", escape(name.as_str()));
    match command {
        CertificateCommand::List => {
            let held = s.client.get::<Vec<Certificate>>("/v1/certificates").await?;
            if !s.json(&held)? {
                let mut table = Table::new(&["NAME", "GOOD FOR", "ENDS", "LISTENERS", "NOTE"]);
                for c in &held.data {
                    let note = match (c.opens, c.known) {
                        (false, _) => "this node cannot open it",
                        (true, true) => "a removed member may know its key: put another one",
                        (true, false) => "-",
                    };
                    let words = |all: &[String]| or_dash(Some(all.join(" ")).filter(|all| !all.is_empty()));
                    let (names, listeners) = (words(&c.names), words(&c.listeners));
                    let ends = or_dash(c.not_after.as_ref());
                    table.row([c.name.clone(), names, ends, listeners, note.into()]);
                }
                table.print(s.out, "the cluster holds no certificates")?;
            }
            Ok(())
        }
        CertificateCommand::Put { name, cert, key } => {
            let new = NewCertificate { cert: text_of(cert)?, key: key.map(text_of).transpose()? };
            let written: Written = s.client.put(&at(&name), &new).await?;
            s.wrote(&written, &format!("certificate {name} is with the cluster"))
        }
        CertificateCommand::Remove { name } => {
            let written: Written = s.client.delete(&at(&name), &[]).await?;
            s.wrote(&written, &format!("certificate {name} is removed"))
        }
    }
}

pub(super) async fn webhook(s: &mut Session<'_>, command: WebhookCommand) -> Result<(), CliError> {
    match command {
        WebhookCommand::List => {
            let hooks = s.client.get::<Vec<Webhook>>("/v1/webhooks").await?;
            if !s.json(&hooks)? {
                let mut table = Table::new(&["URL"]);
                hooks.data.iter().for_each(|h| table.row([h.url.clone()]));
                table.print(s.out, "no webhooks")?;
            }
            Ok(())
        }
        WebhookCommand::Add { url, key_file } => {
            let secret = key_file.map(text_of).transpose()?.map(|text| text.trim().to_owned());
            let made: WebhookSecret = s.client.put("/v1/webhooks", &NewWebhook { url, secret }).await?;
            if !s.json(&made)? {
                writeln!(s.out, "{}", made.secret)?;
                writeln!(s.out, "signs what goes to {}; the key is not shown again", made.url)?;
            }
            Ok(())
        }
        WebhookCommand::Remove { url } => {
            let written: Written = s.client.delete("/v1/webhooks", &[("url", url.clone())]).await?;
            s.wrote(&written, &format!("webhook {url} is removed"))
        }
    }
}

pub(super) async fn timing(s: &mut Session<'_>, command: TimingCommand) -> Result<(), CliError> {
    match command {
        TimingCommand::Show => {
            let cluster = s.client.get::<Cluster>("/v1/cluster").await?;
            if !s.json(&cluster.data.timing)? {
                let rows = [("timing".to_owned(), Some(cluster.data.timing.to_string()))];
                pairs(["SETTING", "VALUE"], rows.into_iter()).print(s.out, "")?;
            }
        }
        TimingCommand::Set { timing } => {
            let written: TimingWritten = s.client.put("/v1/timing", &setting(&timing)?).await?;
            if !s.json(&written)? {
                writeln!(s.out, "timing is {} (index {})", setting(&timing)?, written.written.index)?;
                written.warning.iter().try_for_each(|w| writeln!(s.out, "WARNING: {w}"))?;
            }
        }
    }
    Ok(())
}

pub(super) async fn cluster(s: &mut Session<'_>, command: ClusterCommand) -> Result<(), CliError> {
    let (path, done) = match command {
        ClusterCommand::Upgrade { yes: _ } => ("/v1/cluster/upgrade", "the cluster version is raised"),
        ClusterCommand::Rekey { yes: _ } => (
            "/v1/cluster/rekey",
            "the members get another cluster key; `secrets show` says when it is in use",
        ),
    };
    let written: Written = s.client.post(path, &serde_json::json!({})).await?;
    s.wrote(&written, done)
}

pub(super) async fn secrets(s: &mut Session<'_>, command: SecretsCommand) -> Result<(), CliError> {
    match command {
        SecretsCommand::Show => {
            let seen = s.client.get::<CommonSecrets>("/v1/secrets").await?;
            if s.json(&seen)? {
                return Ok(());
            }
            let data = seen.data;
            let held = if data.held { "" } else { ", which this node lacks" };
            let replacing = if data.replacing { "; another one is on its way" } else { "" };
            writeln!(s.out, "cluster key {}{held}{replacing}", or_dash(data.key))?;
            let mut table = Table::new(&["SECRET", "STEP", "SINCE", "NEXT", "SEALED", "NOTE"]);
            for secret in data.secrets {
                let CommonSecret { name, url, step, since, next, key, opens, known } = secret;
                let name = url.map_or(name.clone(), |url| format!("{name} {url}"));
                let note = match (opens, known) {
                    (false, _) => "this node cannot open it",
                    (true, true) => "may be known: replace it",
                    (true, false) => "-",
                };
                let sealed = if key.is_some() { "yes" } else { "no" };
                table.row([name, step, or_dash(since), or_dash(next), sealed.into(), note.into()]);
            }
            Ok(table.print(s.out, "")?)
        }
        SecretsCommand::Roll { name } => {
            let path = format!("/v1/secrets/{name}/roll");
            let written: Written = s.client.post(&path, &serde_json::json!({})).await?;
            s.wrote(&written, &format!("a new secret {name} is accepted, and used in a minute"))
        }
    }
}

fn setting(text: &str) -> Result<TimingSetting, CliError> {
    let wrong = || {
        CliError::Usage(format!(
            "{text:?} is no timing; give lan, wan, global, or a heartbeat of 50 to 5000 ms"
        ))
    };
    match text {
        "lan" => Ok(TimingSetting::Lan),
        "wan" => Ok(TimingSetting::Wan),
        "global" => Ok(TimingSetting::Global),
        number => number.parse().map(TimingSetting::HeartbeatMs).map_err(|_| wrong()),
    }
}

pub(super) async fn automation(s: &mut Session<'_>, command: AutomationCommand) -> Result<(), CliError> {
    let (on, service): (bool, Option<ServiceId>) = match command {
        AutomationCommand::On { service } => (true, service),
        AutomationCommand::Off { service } => (false, service),
    };
    let path = service.as_ref().map_or("/v1/automation".into(), |id| format!("/v1/services/{id}/automation"));
    let written: Written = s.client.put(&path, &Switch { on }).await?;
    let what = service.map_or("all services".into(), |id| format!("service {id}"));
    s.wrote(&written, &format!("automation is {} for {what}", if on { "on" } else { "off" }))
}
