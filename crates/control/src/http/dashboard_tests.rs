//! What a browser is served beside the API: the dashboard's files, and the API's documentation.

use axum::http::StatusCode;

use super::tests::assert_error;
use crate::config::DashboardFile;
use crate::db::testing::databases;
use crate::testing::{Answer, app, app_with};

#[tokio::test]
async fn the_dashboards_page_is_at_every_path_of_a_page_and_forbids_what_is_inline() {
    fn lookup(path: &str) -> Option<DashboardFile> {
        let (bytes, mime): (&[u8], _) = match path {
            "index.html" => (b"<!doctype html>", "text/html; charset=utf-8"),
            "style.css" => (b"body {}", "text/css; charset=utf-8"),
            _ => return None,
        };
        Some(DashboardFile { bytes, gzip: None, mime, immutable: false, hash: "abc" })
    }
    for database in databases().await {
        let test = app_with(database, |config| config.dashboard = lookup).await;
        let client = test.client.anonymous();
        for path in ["/", "/login", "/dashboard/sandboxes/sb-aaaaaaaaaaaaaaaaaaaa"] {
            let page = client.get(path).await.expect(200);
            assert_eq!(page.body, b"<!doctype html>");
            assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
            let policy = page.headers["content-security-policy"].to_str().unwrap();
            assert!(policy.contains("style-src 'self';") && !policy.contains("unsafe-inline"), "{policy}");
        }
        let style = client.get("/style.css").await.expect(200);
        assert_eq!(style.headers["content-type"], "text/css; charset=utf-8");
        assert_error(&client.get("/other.css").await, 404, "not_found");
        assert_eq!(client.with("if-none-match", "\"abc\"").get("/style.css").await.status, StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn the_documentation_is_a_page_that_is_whole_and_reads_the_api_of_this_server() {
    for database in databases().await {
        let test = app(database).await;
        let client = test.client.anonymous();
        let moved = client.get("/docs").await.expect(303);
        assert_eq!(moved.headers["location"], "/docs/");
        let page = client.get("/docs/").await.expect(200);
        let text = |answer: &Answer| String::from_utf8_lossy(&answer.body).into_owned();
        // Browsers take scripts and styles only as what they are said to be.
        let kinds = [(".css", "text/css"), (".js", "text/javascript"), (".png", "image/png")];
        let mut scripts = String::new();
        let mut names: Vec<_> = text(&page).split('"').map(str::to_owned).collect();
        names.retain(|name| kinds.iter().any(|(end, _)| name.ends_with(end)));
        assert!(names.len() > 4, "{names:?}");
        for name in names {
            let name = name.trim_start_matches("./");
            let part = client.get(&format!("/docs/{name}")).await.expect(200);
            let (_, kind) = kinds.iter().find(|(end, _)| name.ends_with(end)).unwrap();
            assert_eq!(&part.headers["content-type"], kind, "{name}");
            if name == "swagger-initializer.js" {
                scripts = text(&part);
            }
        }
        assert!(scripts.contains("SwaggerUIBundle(") && scripts.contains("\"/openapi.json\""), "{scripts}");
        let api = client.get("/openapi.json").await.expect(200);
        assert_eq!(api.headers["content-type"], "application/json");
        assert!(api.json()["paths"]["/v1/sandboxes"]["post"].is_object());
    }
}
