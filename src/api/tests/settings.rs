//! The settings, and which callers see them.

use super::*;
use crate::api::Permission;

#[tokio::test]
async fn settings_say_what_is_in_force_and_what_the_caller_may_do() {
    let world = World::new();
    let access = Access::read_only(Scope::All)
        .without(Permission::Payload)
        .as_user("ann");
    let answer = get(&world.as_one(access), "/settings").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    let settings = answer.json();
    assert_eq!(settings["run"]["retryWaitsMs"], json!([1000, 2000, 4000]));
    assert_eq!(settings["run"]["attemptTimeoutMs"], 60_000);
    assert_eq!(settings["accept"]["waitCapMs"], 60_000);
    assert_eq!(settings["keep"]["durability"], "process");
    assert_eq!(settings["process"]["concurrency"], 1);
    let access = json!({ "user": "ann", "allTenants": true, "permissions": ["list", "view", "result", "logs"] });
    assert_eq!(settings["access"], access);
}

#[tokio::test]
async fn a_caller_of_one_tenant_sees_no_process_settings() {
    let world = World::new();
    let settings = get(&world.as_one(Access::full(Scope::One(None))), "/settings")
        .await
        .json();
    assert_eq!((&settings["process"], &settings["api"]), (&Value::Null, &Value::Null));
    assert_eq!(settings["access"]["allTenants"], false);
    assert_eq!(
        get(&world.as_one(Access::none(Scope::All)), "/settings").await.status,
        403
    );
}
