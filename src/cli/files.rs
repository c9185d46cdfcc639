//! `check`, `plan`, `apply`, `export`: configuration files against what runs.

use crate::{
    command::{ApplyArgs, CheckArgs, ExportArgs, PlanArgs},
    error::CliError,
    run::Session,
};
use serde_json::json;
use std::{
    io::{BufRead, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};
use zonekeeper_api::wire::{Config, ConfigChanges, DryRun, Member, Written};
use zonekeeper_config::{ClusterConfig, Place, Plan, Problem, Problems, Severity, plan};

/// Exit status of `plan` when there is a difference.
const DIFFERS: u8 = 2;

/// `check`: offline.
pub(crate) fn check(args: &CheckArgs, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let (config, mut problems) = ClusterConfig::check(&args.folder);
    problems.0.extend(config.iter().flat_map(|c| c.check_nodes(&args.folder).0));
    let config = config.filter(|_| !problems.has_errors());
    let (errors, warnings) = problems.counts();
    if args.json {
        let text = serde_json::to_string_pretty(&problems).map_err(|e| CliError::Usage(e.to_string()))?;
        writeln!(out, "{text}")?;
    } else {
        report(out, &problems)?;
        match &config {
            Some(c) => writeln!(out, "{}: {}, {warnings} warnings", args.folder.display(), summary(c))?,
            None => writeln!(out, "{}: {errors} errors, {warnings} warnings", args.folder.display())?,
        }
    }
    Ok(if config.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(c: &ClusterConfig) -> String {
    let records: usize = c.zones.values().map(|(_, sets)| sets.len()).sum();
    format!(
        "{} sites, {} services, {} pools, {} listeners, {} zones with {records} RRsets",
        c.sites.len(),
        c.services.len(),
        c.pools.len(),
        c.listeners.len(),
        c.zones.len()
    )
}

fn report(out: &mut dyn Write, problems: &Problems) -> Result<(), CliError> {
    problems.0.iter().try_for_each(|p| writeln!(out, "{p}"))?;
    Ok(())
}

/// What is declared, or none after its problems were shown.
fn declared(s: &mut Session<'_>, folder: &Path) -> Result<Option<ClusterConfig>, CliError> {
    let (config, problems) = ClusterConfig::check(folder);
    if config.is_none() || !s.json {
        report(s.out, &problems)?;
    }
    Ok(config)
}

/// Says which members stand at sites that are not declared: they vote all the same.
async fn members(s: &mut Session<'_>, folder: &Path, desired: &ClusterConfig) -> Result<(), CliError> {
    let members = s.client.get::<Vec<Member>>("/v1/members").await?.data;
    let strays = members.iter().filter(|m| !desired.sites.contains_key(&m.site));
    let problem = |m: &Member| Problem {
        place: Some(Place { file: Arc::new(folder.into()), line: 0, column: 0 }),
        field: format!("site.{}", m.site),
        message: format!("is not declared, but node {} is a member there; add [site.{}]", m.id, m.site),
        severity: Severity::Warning,
    };
    let problems = Problems(strays.map(problem).collect());
    if s.json { Ok(()) } else { report(s.out, &problems) }
}

/// The way from what runs to what is declared, and the revision that it begins at.
async fn difference(s: &mut Session<'_>, desired: ClusterConfig) -> Result<(u64, Plan), CliError> {
    let current = s.client.get::<Config>("/v1/config").await?.data;
    let revision = current.revision;
    Ok((revision, plan(&current.into_cluster(), desired)))
}

fn show(s: &mut Session<'_>, revision: u64, plan: &Plan) -> Result<(), CliError> {
    if s.json {
        return s.json(&json!({"revision": revision, "lines": plan.lines, "drift": plan.drift})).map(|_| ());
    }
    write!(s.out, "{plan}")?;
    match plan.is_empty() {
        true => writeln!(s.out, "nothing differs from revision {revision}")?,
        false => writeln!(s.out, "{} changes to revision {revision}", plan.changes.len())?,
    }
    Ok(())
}

/// `plan`.
pub(crate) async fn plan_command(s: &mut Session<'_>, args: &PlanArgs) -> Result<ExitCode, CliError> {
    let Some(desired) = declared(s, &args.folder)? else { return Ok(ExitCode::FAILURE) };
    members(s, &args.folder, &desired).await?;
    let (revision, plan) = difference(s, desired).await?;
    show(s, revision, &plan)?;
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

/// `apply`.
pub(crate) async fn apply(s: &mut Session<'_>, args: &ApplyArgs) -> Result<ExitCode, CliError> {
    let Some(desired) = declared(s, &args.folder)? else { return Ok(ExitCode::FAILURE) };
    members(s, &args.folder, &desired).await?;
    let (revision, plan) = difference(s, desired).await?;
    if !s.json || plan.is_empty() {
        show(s, revision, &plan)?;
    }
    if plan.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let body = ConfigChanges { revision, changes: plan.changes };
    let tried: DryRun = s.client.post("/v1/config/plan", &body).await?;
    if !s.json {
        tried.moves.iter().try_for_each(|m| writeln!(s.out, "moves {m}"))?;
    }
    if !args.yes && !agreed(s)? {
        return Ok(ExitCode::FAILURE);
    }
    let written: Written = s.client.post("/v1/config/apply", &body).await?;
    let staged =
        if tried.entries > 1 { format!(" in {} staged entries", tried.entries) } else { String::new() };
    s.wrote(&written, &format!("applied{staged}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks on a terminal; anywhere else `--yes` is needed, so that no script waits for ever.
fn agreed(s: &mut Session<'_>) -> Result<bool, CliError> {
    if s.json || !std::io::stdin().is_terminal() {
        return Err(CliError::Usage("nothing was changed; add --yes to apply without being asked".into()));
    }
    write!(s.out, "apply? [y/N] ")?;
    s.out.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "yes"))
}

/// `export`.
pub(crate) async fn export(s: &mut Session<'_>, args: &ExportArgs) -> Result<(), CliError> {
    let error = |source| CliError::File { path: args.folder.clone(), source };
    let used = args.folder.exists() && std::fs::read_dir(&args.folder).map_err(error)?.next().is_some();
    if used {
        let text = format!(
            "{} is not empty; give a new folder, so that no file of yours is lost",
            args.folder.display()
        );
        return Err(CliError::Usage(text));
    }
    let current = s.client.get::<Config>("/v1/config").await?.data;
    let revision = current.revision;
    let files = current.into_cluster().export();
    for (path, text) in &files {
        let path = args.folder.join(path);
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&path, text)
        };
        write().map_err(|source| CliError::File { path: path.clone(), source })?;
    }
    let names: Vec<String> = files.keys().map(|p| p.display().to_string()).collect();
    if !s.json(&json!({"revision": revision, "files": names}))? {
        writeln!(s.out, "revision {revision} in {}:", args.folder.display())?;
        names.iter().try_for_each(|n| writeln!(s.out, "  {n}"))?;
    }
    Ok(())
}
