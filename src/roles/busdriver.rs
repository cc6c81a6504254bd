//! The busdriver: looks at each raw record and decides its route. Journeys begin here.

use serde::Deserialize;
use uuid::Uuid;

use super::{Context, Kind, Role};
use crate::{
    bus::Topic,
    handler::{Handler, Verdict},
    slip::{Itinerary, Message},
    stop::Stop,
};

pub const ROLE: Role =
    Role { name: "busdriver", about: "Give each raw record a slip with its route", kind: Kind::Stop(build) };

/// `[busdriver]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    topic: Topic,
    /// The stops of a journey, in the order of travel.
    route: Vec<Topic>,
}

fn build(context: &Context) -> anyhow::Result<Stop> {
    context.config.check_route()?;
    let options: Options = context.config.section(ROLE.name)?;
    let handler = Busdriver { itinerary: Itinerary::new(&options.route) };
    Ok(Stop::new(ROLE.name, &options.topic, handler, context.settings()))
}

struct Busdriver {
    itinerary: Itinerary,
}

impl Handler for Busdriver {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        let depart = |message: &mut Message<'_>| {
            message.depart(&self.itinerary, Uuid::now_v7());
            Verdict::Forward
        };
        Ok(messages.iter_mut().map(depart).collect())
    }

    fn begins_journeys(&self) -> bool {
        true
    }
}
