//! What is done with dead letters over HTTP is done once, as by the command.

use serde_json::json;

use super::{Served, TOKEN};
use crate::{
    fleet::{Engine, Fleet},
    repair::rejected,
};

fn places(served: &Served) -> Vec<String> {
    let letters = served.client.json("/api/dead");
    let letters = letters["letters"].as_array().expect("letters").iter();
    letters.map(|letter| letter["place"].as_str().expect("a place").to_owned()).collect()
}

/// How many messages have come to the end of the line.
fn arrived(fleet: &Fleet) -> usize {
    fleet.values(&fleet.topic("Log")).len()
}

fn a_letter_is_replayed_once_on(engine: Engine) {
    let Some(mut fleet) = rejected(engine, 4) else { return };
    fleet.set("WEB__TOKEN", TOKEN);
    fleet.set("WEB__SHOW_PAYLOADS", "true");
    let (add_email, white_list) = (fleet.topic("AddEmail"), fleet.topic("WhiteList"));
    let served = Served::web(&fleet);
    let client = &served.client;
    let all = places(&served);
    assert_eq!(all.len(), 4);
    let key = client.json(&format!("/api/dead/{}", all[0]))["key"].as_str().expect("a key").to_owned();

    let planned = client.post("/api/dead/replay", &json!({"places": all, "dry_run": true})).json();
    let expected = json!({"done": 4, "topics": {&add_email: 4}, "left": [], "before": 0, "dry_run": true});
    assert_eq!(planned, expected);
    assert_eq!(places(&served).len(), 4, "a plan is none");

    let one = json!({"places": [all[0]]});
    let expected = json!({"done": 1, "topics": {&add_email: 1}, "left": [], "before": 0, "dry_run": false});
    assert_eq!(client.post("/api/dead/replay", &one).json(), expected);
    let again = json!({"done": 0, "topics": {}, "left": [], "before": 1, "dry_run": false});
    assert_eq!(client.post("/api/dead/replay", &one).json(), again);
    assert_eq!(client.post("/api/dead/discard", &one).json(), again);
    let letters = client.json("/api/dead?all=true");
    let done = letters["letters"].as_array().expect("letters").iter().find(|letter| letter["place"] == json!(all[0]));
    assert_eq!(
        (&done.expect("it")["done"]["what"], &done.expect("it")["done"]["to"]),
        (&json!("replayed"), &json!(add_email))
    );

    // One that is not on its route stays, the others are not kept from going by that
    let stays = client.post("/api/dead/replay", &json!({"places": [all[1]], "from_stop": "busdriver"})).json();
    assert_eq!((&stays["done"], &stays["left"][0]["place"]), (&json!(0), &json!(all[1])));
    assert!(stays["left"][0]["reason"].as_str().is_some_and(|why| why.contains("is not on its route")), "{stays}");
    let from = client.post("/api/dead/replay", &json!({"places": [all[1]], "from_stop": "whitelist"})).json();
    assert_eq!(from["topics"], json!({ &white_list: 1 }));
    let planned = client.post("/api/dead/replay", &json!({"places": [all[2]], "replan": true})).json();
    assert_eq!(planned["topics"], json!({ &add_email: 1 }));
    let discarded = client.post("/api/dead/discard", &json!({"places": [all[3]]})).json();
    assert_eq!((&discarded["done"], &discarded["topics"]), (&json!(1), &json!({ &add_email: 1 })));
    assert_eq!(places(&served), Vec::<String>::new());
    let nowhere = client.post("/api/dead/discard", &json!({"places": ["0/999"]}));
    assert!(nowhere.problem(404).ends_with("; nothing was done"));

    fleet.drain("a");
    // The one that skipped the contactpoint has no email and is dropped
    assert_eq!(arrived(&fleet), 2);
    let journey = &client.json(&format!("/api/journeys?key={key}"))["journeys"][0];
    let did: Vec<_> = journey["hops"].as_array().expect("hops").iter().map(|hop| &hop["verdict"]).collect();
    let expected = ["forwarded", "rejected", "replayed", "forwarded", "forwarded", "finished"];
    assert_eq!(json!(did), json!(expected), "{journey}");
    served.end();
    // A second drain finds nothing that would arrive twice
    fleet.drain("a");
    assert_eq!(arrived(&fleet), 2);
}

#[test]
fn a_letter_is_replayed_once_on_sqlite() {
    a_letter_is_replayed_once_on(Engine::Sqlite);
}

#[test]
fn a_letter_is_replayed_once_on_kafka() {
    a_letter_is_replayed_once_on(Engine::AtLeastOnce);
}

#[test]
fn of_many_who_replay_the_same_letters_at_once_one_does() {
    let Some(mut fleet) = rejected(Engine::Sqlite, 20) else { return };
    fleet.set("WEB__TOKEN", TOKEN);
    let served = Served::web(&fleet);
    let order = json!({"places": places(&served)});
    let done: u64 = std::thread::scope(|scope| {
        let ask = || served.client.post("/api/dead/replay", &order).json()["done"].as_u64().expect("a count");
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).sum()
    });
    assert_eq!(done, 20);
    served.end();
    fleet.drain("a");
    assert_eq!(arrived(&fleet), 20);
}
