//! The one place that maps errors to HTTP.

use crate::wire::{ErrorBody, ErrorDetail};
use axum::{
    Json,
    extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use zonekeeper_consensus::ProposeError;
use zonekeeper_core::entry::{Object, Read};

/// An error as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Code, message and remedy.
    pub(crate) detail: ErrorDetail,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let detail = ErrorDetail { code: code.into(), message: message.into(), remedy: remedy.into() };
        ApiError { status, detail }
    }

    /// The same for everybody without a valid token, whatever the path.
    pub(crate) fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid token is needed", "")
    }

    pub(crate) fn forbidden(needed: &str, have: &str) -> ApiError {
        let message = format!("this needs a token with the role {needed}; yours has {have}");
        ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            message,
            "ask an administrator for a token with that role",
        )
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("{what} does not exist"), "")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            message,
            "see /v1/openapi.json for what is expected",
        )
    }

    /// Against a rule; the text says which, and after a semicolon what to do.
    pub(crate) fn refused(text: &str) -> ApiError {
        let (message, remedy) = text.split_once("; ").unwrap_or((text, ""));
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", message, remedy)
    }

    pub(crate) fn stale(read: &Read) -> ApiError {
        let what = match &read.object {
            Object::Config => "the declared configuration".into(),
            Object::Service(id) => format!("service {id}"),
            Object::Voters => "the set of voters".into(),
            Object::Zone(origin) => format!("zone {origin}"),
        };
        let message = format!("{what} has changed meanwhile (at index {})", read.version);
        ApiError::new(
            StatusCode::CONFLICT,
            "stale",
            message,
            "read it again and repeat the change on what you find",
        )
    }

    pub(crate) fn busy(what: &str) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            format!("too many {what}"),
            "try again in a moment",
        )
    }

    pub(crate) fn too_large() -> ApiError {
        let message = "the body is larger than this path takes";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, "send it in smaller parts")
    }

    pub(crate) fn timeout() -> ApiError {
        let message = "the request took too long; if it was a write, whether it happened is unknown";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "unknown", message, "read before you repeat a write")
    }
}

/// What the node could not do, in HTTP.
impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> ApiError {
        let text = error.to_string();
        let unavailable = |code: &str, remedy: &str| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, text.clone(), remedy)
        };
        match error {
            ProposeError::NoLeader | ProposeError::NotLeader { .. } => unavailable(
                "no_leader",
                "try again; if it stays so, see `zonekeeper status`: a majority of the voters must reach each other",
            ),
            ProposeError::Busy(_) => unavailable("busy", "try again in a moment"),
            ProposeError::Stopped(_) => unavailable("stopped", "see the node's log; ask another node"),
            ProposeError::Unknown(why) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "unknown",
                format!("unknown: it may still be applied ({why})"),
                "read before you repeat it",
            ),
            ProposeError::TooLarge(_) => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                text,
                "send it in parts; /v1/config/apply does that by itself",
            ),
            ProposeError::Refused(text) => ApiError::refused(&text),
            ProposeError::Behind { .. } => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "behind",
                text,
                "it stays a learner and goes on catching up; see `zonekeeper member list`",
            ),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(r: JsonRejection) -> ApiError {
        match r.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ApiError::bad_request("the body must be JSON with Content-Type: application/json")
            }
            _ => ApiError::bad_request(r.body_text()),
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(r: BytesRejection) -> ApiError {
        match r.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(),
            _ => ApiError::bad_request(r.body_text()),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(r: PathRejection) -> ApiError {
        ApiError::bad_request(r.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(r: QueryRejection) -> ApiError {
        ApiError::bad_request(r.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1 asks for a challenge.
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
