//! Certificates that the cluster holds, sealed, for every node's listeners. Their keys are shown to nobody.

use super::{Routes, secrets};
use crate::{
    api::Api,
    auth::{Caller, ToAdmin},
    error::ApiError,
    extract::{Body, Path, View, blocking, linearize},
    wire::{self, Certificate, NewCertificate, Seen, Written, stamp},
};
use axum::{Json, extract::State};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::time::Duration;
use zonekeeper_core::{
    Command,
    id::CertificateId,
    secrets::{Ring, SINCE, SecretId},
};
use zonekeeper_peer::keys::Keyring;
use zonekeeper_proxy::{Validity, read_bundle};

/// A certificate may begin so much later than this node's clock says.
const SKEW: Duration = Duration::from_secs(300);

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list).add(__path_put, put).add(__path_remove, remove)
}

/// The certificates that the cluster holds, without their keys. Role: read.
#[utoipa::path(get, path = "/v1/certificates", tag = "cluster",
    responses((status = 200, body = Seen<Vec<Certificate>>)))]
async fn list(view: View) -> Result<Json<Seen<Vec<Certificate>>>, ApiError> {
    let (state, keyring) = (view.published.state.clone(), view.api.handles.keyring.clone());
    let all = move || state.certificates().map(|(id, ring)| shown(&state, &keyring, id, ring)).collect();
    Ok(view.seen(blocking(all).await?))
}

fn shown(state: &zonekeeper_core::State, keyring: &Keyring, id: &CertificateId, ring: &Ring) -> Certificate {
    let opened = opened(keyring, id, ring);
    let read = opened.as_ref().and_then(|pem| read_bundle(pem, id.as_str()).ok());
    let times = read.as_ref().and_then(|read| times(read.validity));
    Certificate {
        name: id.to_string(),
        not_before: times.map(|[begins, _]| begins.to_string()),
        not_after: times.map(|[_, ends]| ends.to_string()),
        sha256: read.as_ref().map(|read| format!("{:x}", Sha256::digest(&read.key.cert[0]))),
        names: read.map(|read| read.names).unwrap_or_default(),
        listeners: state.users(id).map(ToString::to_string).collect(),
        since: stamp(ring.since),
        opens: opened.is_some(),
        known: ring.known,
    }
}

/// What stands in the state, so far as this node can open it.
fn opened(keyring: &Keyring, id: &CertificateId, ring: &Ring) -> Option<Vec<u8>> {
    keyring.open(ring.active.key, &SecretId::Certificate(id.clone()).context(), &ring.active.bytes)
}

/// From when to when a certificate is good.
fn times(Validity { begins, ends }: Validity) -> Option<[Timestamp; 2]> {
    Some([Timestamp::from_second(begins).ok()?, Timestamp::from_second(ends).ok()?])
}

/// Makes or replaces a certificate. New handshakes get it on every node from this index on. The same text again changes
/// nothing. Role: admin.
#[utoipa::path(put, path = "/v1/certificates/{name}", tag = "cluster", request_body = NewCertificate,
    params(("name" = String, Path, description = "its name in the cluster")),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn put(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(new): Body<NewCertificate>,
) -> Result<Json<Written>, ApiError> {
    let id = certificate(&name)?;
    let pem = format!("{}\n{}\n", new.cert.trim(), new.key.as_deref().unwrap_or_default().trim());
    let read = read_bundle(pem.as_bytes(), "cert").map_err(|why| ApiError::refused(&why))?;
    if let Some([begins, ends]) = times(read.validity) {
        let now = Timestamp::now();
        if ends <= now {
            return Err(ApiError::refused(&format!(
                "the certificate ended on {ends}; give one that is good"
            )));
        }
        if begins > now + SKEW {
            let why = format!(
                "the certificate is good from {begins} on; put it then, for clients would refuse it now"
            );
            return Err(ApiError::refused(&why));
        }
    }
    linearize(&api).await?;
    let state = api.handles.published.load().state.clone();
    let held = state.certificates().find(|(of, _)| **of == id);
    if held.is_some_and(|(_, ring)| {
        opened(&api.handles.keyring, &id, ring).is_some_and(|now| now == pem.as_bytes())
    }) {
        let index = state.generation.index;
        return Ok(Json(Written { index, generation: state.generation.into(), published: true }));
    }
    if state.cluster_version < SINCE {
        return Err(ApiError::refused(
            "certificates need cluster version 2; run `zonekeeper cluster upgrade --yes` when every node has this program",
        ));
    }
    let command = secrets::put(&api, SecretId::Certificate(id), pem.as_bytes())?;
    Ok(Json(caller.write(&api, command).await?))
}

/// Removes a certificate that no listener uses. Role: admin.
#[utoipa::path(delete, path = "/v1/certificates/{name}", tag = "cluster",
    params(("name" = String, Path, description = "its name in the cluster")),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Written>, ApiError> {
    Ok(Json(caller.write(&api, Command::RemoveCertificate(certificate(&name)?)).await?))
}

fn certificate(name: &str) -> Result<CertificateId, ApiError> {
    name.parse().map_err(|why| ApiError::refused(&format!("the name {name:?} {why}")))
}
