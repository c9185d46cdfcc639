//! The routes, one file per topic. [`Routes::add`] registers a handler and its documentation at once.

mod backup;
mod certificates;
mod cluster;
mod config;
mod decisions;
mod events;
mod evidence;
mod explain;
mod health;
mod members;
mod overrides;
mod proxy;
mod secrets;
mod services;
mod sites;
mod tokens;
mod webhooks;
mod zones;

pub(crate) use cluster::role;

use crate::{api::Api, auth, error::ApiError, extract::View, handles::Handles};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    handler::Handler,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use std::time::Duration;
use utoipa::{
    __dev::{SchemaReferences, Tags}, // what utoipa's own axum bindings use beside `Path`
    openapi::{
        Components, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// Largest body of a request, in bytes; zone files and configurations have limits of their own.
const MAX_BODY: usize = 256 << 10;
/// Longest time from request to response head. A change of members may wait for a node that catches up.
const REQUEST_WITHIN: Duration = Duration::from_secs(120);

/// Router and document, growing together.
pub(crate) struct Routes {
    router: Router<Api>,
    paths: Paths,
    components: Components,
}

impl Routes {
    fn new() -> Routes {
        let mut components = Components::new();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        Routes { router: Router::new(), paths: Paths::new(), components }
    }

    /// A handler and what `#[utoipa::path]` made of it.
    fn add<P, H, T>(self, document: P, handler: H) -> Routes
    where
        P: utoipa::Path + SchemaReferences + for<'t> Tags<'t>,
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add_sized(document, handler, MAX_BODY)
    }

    /// [`Routes::add`] with another limit of the body, in bytes.
    fn add_sized<P, H, T>(mut self, _document: P, handler: H, max_body: usize) -> Routes
    where
        P: utoipa::Path + SchemaReferences + for<'t> Tags<'t>,
        H: Handler<T, Api>,
        T: 'static,
    {
        for method in P::methods() {
            let early = middleware::from_fn(move |request, next| declared(max_body, request, next));
            let service =
                on(filter(&method), handler.clone()).layer(DefaultBodyLimit::max(max_body)).layer(early);
            self.router = self.router.route(&P::path(), service);
        }
        let mut operation = P::operation();
        operation.tags = Some(P::tags().into_iter().map(String::from).collect());
        let item = PathItem::from_http_methods(P::methods(), operation);
        match self.paths.paths.get_mut(&P::path()) {
            Some(existing) => existing.merge_operations(item),
            None => drop(self.paths.paths.insert(P::path(), item)),
        }
        let mut schemas = Vec::new();
        P::schemas(&mut schemas);
        self.components.schemas.extend(schemas);
        self
    }

    fn document(&self) -> OpenApi {
        let info = InfoBuilder::new()
            .title("Zonekeeper")
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some(
                "Every path but /healthz and /readyz needs a bearer token; without a valid one the answer is 401, \
                 whatever the path. Reads take ?consistency=linearizable. Errors are {error: {code, message, remedy}}.",
            ))
            .build();
        OpenApiBuilder::new()
            .info(info)
            .paths(self.paths.clone())
            .components(Some(self.components.clone()))
            .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
            .build()
    }
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Patch => MethodFilter::PATCH,
        _ => MethodFilter::GET,
    }
}

pub(crate) fn all() -> Routes {
    let topics = [
        health::routes,
        cluster::routes,
        backup::routes,
        members::routes,
        sites::routes,
        services::routes,
        overrides::routes,
        evidence::routes,
        decisions::routes,
        events::routes,
        zones::routes,
        proxy::routes,
        config::routes,
        explain::routes,
        tokens::routes,
        webhooks::routes,
        certificates::routes,
        secrets::routes,
    ];
    topics.into_iter().fold(Routes::new(), |routes, topic| topic(routes)).add(__path_openapi, openapi)
}

/// The whole service: routes, 404 for the rest, the gate in front of all.
pub(crate) fn service(handles: Handles) -> (Api, Router) {
    let routes = all();
    let document = routes.document().to_json().unwrap_or_default();
    let api = Api::new(handles, document);
    let router = routes
        .router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), bounded))
        .layer(middleware::from_fn_with_state(api.clone(), auth::gate))
        .with_state(api.clone());
    (api, router)
}

/// So many requests at once, and each for so long.
async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    if auth::OPEN.contains(&request.uri().path()) {
        return next.run(request).await; // a flood of requests must not make the node look dead
    }
    let Ok(_permit) = api.requests.try_acquire() else {
        return ApiError::busy("requests at once").into_response();
    };
    match tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timeout().into_response(),
    }
}

/// A body that says itself that it is too large is not read at all.
async fn declared(max: usize, request: Request, next: Next) -> Response {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > max as u64 => ApiError::too_large().into_response(),
        _ => next.run(request).await,
    }
}

async fn unknown() -> ApiError {
    ApiError::not_found("this path")
}

async fn wrong_method() -> ApiError {
    let message = "this path does not take that method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method", message, "see /v1/openapi.json")
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "meta",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi(view: View) -> Response {
    ([("content-type", "application/json")], view.api.document.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_documented_and_has_a_summary() {
        let document = serde_json::to_value(all().document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 30);
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
                assert!(operation["tags"].is_array(), "{method} {path} has no tag");
            }
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = serde_json::to_value(all().document()).unwrap();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is missing");
        }
    }
}
