//! `backup`.

use super::Session;
use crate::{command::BackupArgs, error::CliError};
use serde_json::json;
use std::{fs::File, io::Write, os::unix::fs::OpenOptionsExt, path::Path};
use zonekeeper_api::wire::GENERATION_HEADER;

pub(super) async fn backup(s: &mut Session<'_>, args: &BackupArgs) -> Result<(), CliError> {
    let error = |source| CliError::File { path: args.file.clone(), source };
    if args.file.exists() {
        let text =
            format!("{} exists already; give a new file, so that no backup is lost", args.file.display());
        return Err(CliError::Usage(text));
    }
    let mut response = s.client.raw("/v1/backup").await?;
    let generation = response.headers().get(GENERATION_HEADER).and_then(|v| v.to_str().ok());
    let generation = generation.unwrap_or_default().to_owned();
    let part = args.file.with_added_extension("part");
    let mut file = create(&part).map_err(error)?;
    let mut size = 0;
    while let Some(bytes) = response.chunk().await.map_err(|e| s.client.cut(&e))? {
        file.write_all(&bytes).map_err(error)?;
        size += bytes.len();
    }
    file.sync_all().and_then(|()| std::fs::rename(&part, &args.file)).map_err(error)?;
    if !s.json(&json!({"file": args.file, "generation": generation, "bytes": size}))? {
        writeln!(
            s.out,
            "{}: generation {generation}, {size} bytes; keep it apart from the key folders",
            args.file.display()
        )?;
    }
    Ok(())
}

/// Readable by the owner alone; what an interrupted backup left is written over.
fn create(path: &Path) -> std::io::Result<File> {
    File::options().create(true).write(true).truncate(true).mode(0o600).open(path)
}
