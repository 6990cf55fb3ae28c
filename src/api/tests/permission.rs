//! Which permissions a request needs, and which tasks it reaches.

use super::*;

#[tokio::test]
async fn every_route_needs_its_permission_and_no_other() {
    for (method, path, needed) in EVERY_ROUTE {
        let world = World::new();
        let id = world.ended(1, response(b"", &[])).await;
        // So that streams end.
        world.tasks.close();
        let path = path.replace("{id}", &id.to_string());
        let without = world.as_one(Access::full(Scope::All).without(needed));
        let answer = send(&without, request(method, &path)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "Forbidden"),
            "{method} {path}"
        );
        let only = world.as_one(Access::none(Scope::All).with(needed));
        let answer = send(&only, request(method, &path)).await;
        assert_ne!(answer.status, 403, "{method} {path}");
        assert_eq!(
            world.tasks.find(&id.into()).await.unwrap().is_none(),
            method == "DELETE"
        );
    }
}

#[tokio::test]
async fn payloads_in_documents_need_their_own_permissions() {
    let world = World::new();
    let id = world.ended(1, response(b"out", &[])).await;
    let no_payload = world.as_one(Access::full(Scope::All).without(Permission::Payload));
    for path in [format!("/{id}?includePayload=1"), "/?includePayload=1".into()] {
        assert_eq!(get(&no_payload, path).await.status, 403);
    }
    let path = format!("/{id}?includePayload=1");
    assert_eq!(get(&world.open(), &path).await.json()["returnPayload"], "out");
    let no_result = world.as_one(Access::full(Scope::All).without(Permission::Result));
    let json = get(&no_result, &path).await.json();
    assert_eq!(json["taskPayload"], "payload");
    assert!(json.get("returnPayload").is_none());
}

#[tokio::test]
async fn another_tenant_s_task_is_not_there() {
    let world = World::new();
    let name = TaskName::new("job").unwrap();
    let (acme, evil) = (Tenant::new("acme"), Tenant::new("evil"));
    let id = world
        .insert(1, |task| {
            task.tenant = Some(acme.clone());
            task.name = Some(name);
        })
        .await;
    let stranger = world.as_one(Access::full(Scope::One(Some(evil))));
    let nobody = world.as_one(Access::full(Scope::One(None)));
    for api in [&stranger, &nobody] {
        for (method, path, _) in EVERY_ROUTE.into_iter().filter(|(_, path, _)| path.contains("{id}")) {
            for name in [id.to_string(), "job".into()] {
                let answer = send(api, request(method, &path.replace("{id}", &name))).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (404, "TaskNotFound"),
                    "{method} {path}"
                );
            }
        }
        assert_eq!(get(api, "/").await.json()["tasks"], json!([]));
    }
    let own = world.as_one(Access::full(Scope::One(Some(acme))));
    assert_eq!(get(&own, "/job").await.json()["tenant"], "acme");
    assert!(world.audit.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_the_token_every_path_is_answered_alike() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let api = TaskApi::new(&world.tasks, BearerToken::new("s3cret"));
    for path in [
        "/".into(),
        format!("/{id}"),
        "/nowhere/at/all".into(),
        "/missing".into(),
    ] {
        let answer = get(&api, &path).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "Unauthorized"), "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let mut right = request("GET", "/");
    right
        .headers_mut()
        .insert("authorization", HeaderValue::from_static("Bearer s3cret"));
    assert_eq!(send(&api, right).await.status, 200);
    assert_eq!(get(&world.as_one(Access::deny()), "/").await.status, 403);
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    for (method, path) in [
        ("POST", format!("/{id}/stop")),
        ("DELETE", format!("/{id}")),
        ("POST", format!("/{id}/retry")),
    ] {
        let mut cross = request(method, &path);
        cross
            .headers_mut()
            .insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert_eq!(send(&world.open(), cross).await.code(), "Forbidden");
    }
    let mut own = request("POST", &format!("/{id}/stop"));
    own.headers_mut()
        .insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    assert_eq!(send(&world.open(), own).await.status, 200);
}
