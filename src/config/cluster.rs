//! The cluster's declared configuration: every `*.toml` of one folder.

use crate::{
    export, listener,
    log::Log,
    pool,
    problem::{Place, Problems},
    reader::{Parsed, Table, Value, join},
    service, site,
    source::Source,
    validate, zone,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};
use zonekeeper_core::{
    id::{ListenerId, PoolId, ServiceId, SiteId},
    model::{Listener, Pool, Service, Site, ZoneOwner},
    name::Name,
    state::State,
    zone::RrSet,
};

/// The sections of a cluster file.
pub(crate) const SECTIONS: &[&str] = &["site", "zone", "service", "pool", "listener"];

/// The declared configuration of a whole cluster, validated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterConfig {
    /// Sites.
    pub sites: BTreeMap<SiteId, Site>,
    /// Sites that are meant to vote. Used to see whether a quorum can be reached; who votes is membership's business
    /// and no plan touches it.
    pub voters: BTreeSet<SiteId>,
    /// Services.
    pub services: BTreeMap<ServiceId, Service>,
    /// Pools.
    pub pools: BTreeMap<PoolId, Pool>,
    /// Listeners.
    pub listeners: BTreeMap<ListenerId, Listener>,
    /// Zones by origin, records in canonical order of (name, type). The records of a zone that the API owns are what
    /// it begins with; a plan never touches them later.
    pub zones: BTreeMap<Name, (ZoneOwner, Vec<RrSet>)>,
}

impl ClusterConfig {
    /// Reads and validates every `*.toml` of a folder (not of those below it); all problems at once. Warnings do not
    /// stop it, see [`ClusterConfig::check`].
    pub fn load(dir: &Path) -> Result<ClusterConfig, Problems> {
        match ClusterConfig::check(dir) {
            (Some(config), _) => Ok(config),
            (None, problems) => Err(problems),
        }
    }

    /// As [`ClusterConfig::load`], with the warnings; no configuration when there are errors.
    pub fn check(dir: &Path) -> (Option<ClusterConfig>, Problems) {
        let (log, mut config) = (Log::default(), ClusterConfig::default());
        let mut whole = true;
        for path in cluster_files(dir, &log) {
            whole &= read_file(&mut config, &path, &log).is_some();
        }
        // With a file missing, every reference into it would look broken.
        if whole {
            validate::all(&config, &log);
        }
        let problems = log.into_problems();
        ((!problems.has_errors()).then_some(config), problems)
    }

    /// What runs, as it would be declared. A site is taken as meant to vote unless it has nodes and none of them votes.
    pub fn current(state: &State) -> ClusterConfig {
        let votes = |site: &SiteId| {
            let mut nodes = state.members.iter().filter(|(_, m)| m.site == *site).peekable();
            nodes.peek().is_none() || nodes.any(|(id, _)| state.voters.contains(id))
        };
        let sites: BTreeMap<SiteId, Site> =
            state.sites.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect();
        ClusterConfig {
            voters: sites.keys().filter(|s| votes(s)).cloned().collect(),
            sites,
            services: state.services.iter().map(|(k, v)| (k.clone(), v.spec.clone())).collect(),
            pools: state.pools.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect(),
            listeners: state.listeners.iter().map(|(k, v)| (k.clone(), (**v).clone())).collect(),
            zones: state.zones.iter().map(|(k, v)| (k.clone(), (v.owner(), v.iter().collect()))).collect(),
        }
    }

    /// What is wrong with a configuration that did not come from files; warnings are among it. Every object is written
    /// and read back, so that the ranges of files hold for it too.
    pub fn validate(&self) -> Problems {
        let log = Log::default();
        let source = Source::of(export::objects(self).to_string());
        if let Some(raw) = source.table(&log) {
            read_sections(&mut ClusterConfig::default(), &Table::root(&raw, &source, &log));
        }
        validate::all(self, &log);
        let mut problems = log.into_problems();
        problems.0.iter_mut().for_each(|p| p.place = None);
        problems.sorted()
    }

    /// Files that load back to this configuration: `*.toml` and `zones/*.zone`, by path relative to the folder.
    pub fn export(&self) -> BTreeMap<PathBuf, String> {
        export::files(self)
    }
}

/// Every `*.toml` of a folder, in order of name.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let toml = |p: &PathBuf| p.extension().is_some_and(|e| e == "toml") && p.is_file();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).filter(toml).collect();
    files.sort();
    Ok(files)
}

/// The cluster's files; a folder without one is a problem.
fn cluster_files(dir: &Path, log: &Log) -> Vec<PathBuf> {
    let error = |message: String| {
        log.error(Some(Place { file: Arc::new(dir.into()), line: 0, column: 0 }), "", message);
    };
    let files = files(dir).unwrap_or_else(|e| {
        error(format!("the folder cannot be read: {e}"));
        Vec::new()
    });
    if files.is_empty() && dir.is_dir() {
        error("the folder has no *.toml file; give the folder that declares the cluster".into());
    }
    files
}

/// Adds one file to the configuration; none when it is no readable TOML.
fn read_file(config: &mut ClusterConfig, path: &Path, log: &Log) -> Option<()> {
    let source = Source::read(path, log)?;
    let raw = source.table(log)?;
    let root = Table::root(&raw, &source, log);
    if root.has("data_dir") || root.has("peer") {
        let message = "this is a node's own file; keep it out of this folder (in nodes/) and give it to `zonekeeper run --config`";
        log.error(Some(root.place), "", message);
        return Some(());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    read_sections(config, &root);
    section(&root, "zone", &mut config.zones, zone_path, |v, origin| zone::read(v, origin, folder));
    Some(())
}

/// Everything but zones, whose records stand in files of their own.
fn read_sections(config: &mut ClusterConfig, root: &Table<'_>) {
    root.sweep(SECTIONS);
    let mut sites = BTreeMap::new();
    section(root, "site", &mut sites, |id: &SiteId| join("site", id.as_str()), |v, _| site::read(v));
    for (id, (site, voting)) in sites {
        config.voters.extend(voting.then(|| id.clone()));
        config.sites.insert(id, site);
    }
    section(
        root,
        "service",
        &mut config.services,
        |id| join("service", id.as_str()),
        |v, _| service::read(v),
    );
    section(root, "pool", &mut config.pools, |id| join("pool", id.as_str()), |v, _| pool::read(v));
    section(
        root,
        "listener",
        &mut config.listeners,
        |id| join("listener", id.as_str()),
        |v, _| listener::read(v),
    );
}

/// The path of a zone, without the last dot.
pub(crate) fn zone_path(origin: &Name) -> String {
    let text = origin.to_string();
    join("zone", text.strip_suffix('.').filter(|t| !t.is_empty()).unwrap_or(&text))
}

/// Reads `[section.NAME]` tables. `path` names an object in one way however its key was spelled.
fn section<'a, K: FromStr<Err: Display> + Ord, T>(
    root: &Table<'a>,
    name: &str,
    into: &mut BTreeMap<K, T>,
    path: impl Fn(&K) -> String,
    read: impl Fn(&Value<'a>, &K) -> Parsed<T>,
) {
    let Some(table) = root.opt(name, Value::entries) else { return };
    for (key, value) in table.all() {
        let id = match key.parse::<K>() {
            Ok(id) => id,
            Err(e) => {
                value.error(format!("\"{key}\" {e}"));
                continue;
            }
        };
        let value = value.renamed(path(&id));
        let first = root.log().declared(&value);
        match (first, read(&value, &id)) {
            (Some(first), _) => value.error(format!("is declared twice, first at {first}; keep one")),
            (_, Err(message)) => value.error(message),
            (_, Ok(object)) => _ = into.insert(id, object),
        }
    }
}
