//! The wire format: bytes to slip and payload, and on to the bytes of the next hop. No I/O.
//!
//! A record's value is `{"header":{"route":[…],"original_route":[…],"historical_route":[…]},"payload":{…}}`. `route`
//! is a stack whose last element is the next stop; to advance is to move that element to the end of
//! `historical_route`. A value without `header` or `payload` is all payload. The format is that of the Python
//! original; the idea is the Routing Slip of Hohpe and Woolf, *Enterprise Integration Patterns*.
//!
//! Fields of the header that are ours, and that others pass over:
//!
//! | field | value |
//! | --- | --- |
//! | `id` | text, a UUID given where the journey began, or before that in the record header [`ID_HEADER`] |
//! | `rule`, `rules` | text: the rule that gave it its route, and the hash of all of them |
//! | `parent` | text: the id of the message that this one is a copy of |
//! | `deadline` | a whole number: when its time is up, milliseconds since the epoch |
//! | `revisions` | a list of `{"stop":"whitelist","hop":2,"insert":["Log"]}`, or `replace`: which stop put what ahead of, or in place of, the rest of the route, behind the hop of which number; as in `route`, the next stop is the last |
//!
//! So `original_route` with the revisions is `route` and `historical_route`, and without any it is their sum.
//!
//! Everything that does not change keeps its bytes: unknown header fields, fields beside header and payload, spelling.

mod header;
mod itinerary;
mod malformed;
pub mod resume;
mod revision;
#[cfg(test)]
mod tests;
mod value;

use serde::Deserialize;
use uuid::Uuid;

use crate::{
    bus::{Record, Topic},
    json::{Object, is_key, offset, scan::Tape},
    payload::Payload,
};
use header::Slip;
pub(crate) use header::{header_text, id_of};
pub(crate) use itinerary::Copy;
use itinerary::Departure;
pub use itinerary::Itinerary;
pub use malformed::Malformed;
use revision::Revised;
pub use revision::Revision;
pub(crate) use value::{Checked, Parts};

/// What an incoming message may be at most; beyond it is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a record's value, in and out.
    pub message_bytes: usize,
    /// Stops on a slip, travelled and to come.
    pub hops: usize,
    /// Levels of nested lists and objects.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 10 << 20, hops: 64, depth: 128 }
    }
}

/// The record header with the id of a message that has no slip yet: a UUID, hyphenated, in lower case.
pub const ID_HEADER: &str = "metrobus-id";

/// The topics that a slip may name.
#[derive(Clone, Debug, Default)]
pub struct Stops(Vec<Topic>);

impl Stops {
    pub fn new(topics: impl IntoIterator<Item = Topic>) -> Self {
        let mut topics: Vec<_> = topics.into_iter().collect();
        topics.sort();
        topics.dedup();
        Self(topics)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    fn has(&self, stop: &Topic) -> bool {
        self.0.binary_search(stop).is_ok()
    }

    /// The stop that the JSON text `json` names.
    fn find(&self, json: &str) -> Option<&Topic> {
        self.0.iter().find(|topic| is_key(json, topic.as_str()))
    }
}

/// A record whose value has been taken apart.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The record as it was read: key, headers, timestamp, place.
    pub record: Record<'a>,
    /// What the message is about; a handler reads and sets its fields.
    pub payload: Payload<'a>,
    whole: &'a str,
    leg: Leg<'a>,
    extra: Option<Box<Extra>>,
}

/// What few messages have.
#[derive(Clone, Debug, Default)]
struct Extra {
    revised: Option<Revised>,
    /// The routes of its copies.
    copies: Vec<Itinerary>,
    remark: Option<String>,
}

/// How a message goes on.
#[derive(Clone, Debug)]
enum Leg<'a> {
    /// It does not: it has no slip.
    None,
    OnItsWay(Slip<'a>),
    Departs(Departure),
}

impl<'a> Message<'a> {
    /// Takes a record's value apart at a stop on its way. Its slip may name `stops` only.
    pub fn parse(record: Record<'a>, limits: &Limits, stops: &'a Stops) -> Result<Self, Malformed> {
        let checked = Checked::new(record.value, limits, &mut Tape::default())?;
        Self::on_its_way(record, Parts::new(&checked, None)?, limits, stops, None)
    }

    /// Takes a record's value apart where journeys begin: whatever header it brings is not looked at, only its
    /// payload counts.
    pub fn parse_untrusted(record: Record<'a>, limits: &Limits) -> Result<Self, Malformed> {
        let checked = Checked::new(record.value, limits, &mut Tape::default())?;
        Self::at_its_beginning(record, Parts::new(&checked, None)?)
    }

    /// [`Message::parse`] of a value that has been checked. Mostly it is on the same way as the one `before` it, whose
    /// limits and stops were the same.
    pub(crate) fn on_its_way(
        record: Record<'a>,
        parts: Parts<'a>,
        limits: &Limits,
        stops: &'a Stops,
        before: Option<&Self>,
    ) -> Result<Self, Malformed> {
        let (Some(header), Some(payload)) = (parts.header, parts.payload) else {
            return Ok(Self::bare(record, &parts, parts.own));
        };
        let before = before.and_then(|before| match &before.leg {
            Leg::OnItsWay(slip) => Some(slip),
            _ => None,
        });
        let leg = Leg::OnItsWay(Slip::parse(header, limits, stops, before)?);
        let payload = payload.if_object().ok_or(Malformed::PayloadNotObject)?;
        Ok(Self { record, payload: Payload::of(payload), whole: parts.own.raw(), leg, extra: None })
    }

    /// [`Message::parse_untrusted`] of a value that has been checked.
    pub(crate) fn at_its_beginning(record: Record<'a>, parts: Parts<'a>) -> Result<Self, Malformed> {
        let payload = match (&parts.header, &parts.payload) {
            (Some(_), Some(payload)) => payload.if_object().ok_or(Malformed::PayloadNotObject)?,
            _ => parts.own,
        };
        Ok(Self::bare(record, &parts, payload))
    }

    fn bare(record: Record<'a>, parts: &Parts<'a>, payload: Object<'a>) -> Self {
        Self { record, payload: Payload::of(payload), whole: parts.own.raw(), leg: Leg::None, extra: None }
    }

    /// The whole value as it arrived.
    pub fn whole(&self) -> &'a str {
        self.whole
    }

    /// The message's id: that of its slip, else the one that it was given before it had a slip.
    pub fn id(&self) -> Option<&'a str> {
        let Leg::OnItsWay(Slip { id: Some(id), .. }) = &self.leg else { return self.given_id().map(|(text, _)| text) };
        id.strip_prefix('"')?.strip_suffix('"')
    }

    /// The id that the record's headers give it: whoever accepted the message, as the gateway does, told it to its sender.
    fn given_id(&self) -> Option<(&'a str, Uuid)> {
        let text = std::str::from_utf8(self.record.headers.get(ID_HEADER)?).ok()?;
        let id = Uuid::try_parse(text).ok()?;
        // One spelling, so that one message has one name
        (id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some((text, id))
    }

    /// The id with which its journey begins: the one that it was given, else a new one.
    pub fn id_to_depart_with(&self) -> Uuid {
        self.given_id().map_or_else(Uuid::now_v7, |(_, id)| id)
    }

    /// When its time is up, in milliseconds since the epoch, where its slip says so.
    pub fn deadline(&self) -> Option<i64> {
        match &self.leg {
            Leg::None => None,
            Leg::OnItsWay(slip) => slip.deadline,
            Leg::Departs(departure) => departure.deadline,
        }
    }

    /// The id with which the message sets out from here, where its journey begins here.
    pub(crate) fn departs_with(&self) -> Option<Uuid> {
        match &self.leg {
            Leg::Departs(departure) => Some(departure.id),
            _ => None,
        }
    }

    /// The rule that chose its route, where its journey begins here and the slip names one.
    pub(crate) fn rule(&self) -> Option<&str> {
        match &self.leg {
            Leg::Departs(departure) => departure.itinerary.rule(),
            _ => None,
        }
    }

    /// Begins a journey: the message leaves with a new slip and the id `id`, whatever slip it came with.
    pub fn depart(&mut self, itinerary: &Itinerary, id: Uuid) {
        self.leg = Leg::Departs(Departure { itinerary: itinerary.clone(), id, deadline: None });
    }

    /// Gives a journey that begins here, and its copies, a time at which it is up, in milliseconds since the epoch: a stop
    /// that meets the message later makes it a dead letter. Elsewhere it does nothing.
    pub fn expire(&mut self, deadline: i64) {
        if let Leg::Departs(departure) = &mut self.leg {
            departure.deadline = Some(deadline);
        }
    }

    /// Sends a copy along a route of its own as well, where a journey begins here; elsewhere it does nothing. The copy has
    /// the payload of the message as it leaves, an id of its own (the same for the same id of the message and number of the
    /// copy) and the id of the message as its `parent`.
    pub fn send_copy(&mut self, itinerary: &Itinerary) {
        self.extra().copies.push(itinerary.clone());
    }

    /// The copies that leave with the message.
    pub(crate) fn copies(&self) -> Vec<Copy<'_>> {
        match (&self.extra, &self.leg) {
            (Some(extra), Leg::Departs(departure)) => {
                let copy = |(number, itinerary)| Copy::new(departure, itinerary, number);
                extra.copies.iter().enumerate().map(copy).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Revises what is ahead of the message. Revisions at one stop add up, and count where its verdict is to forward it.
    ///
    /// Where the new route names a stop that the configuration does not know, or is longer than `limits.hops`, with what
    /// lies behind, the message is rejected in place of the verdict; so is one that has no slip, or gets it here.
    ///
    /// The slip keeps each revision, in `revisions`: which stop did what, at which hop.
    ///
    /// ```
    /// use metrobus::{Config, Drain, Revision, Shutdown, Stop, Topic, Verdict, bus, each};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("bus.db").display().to_string();
    /// # let environment = [("METROBUS__SQLITE__PATH", path.as_str()), ("METROBUS__STOPS", "Sort,Audit")];
    /// # /*
    /// let environment = std::env::vars_os();
    /// # */
    /// let config = Config::load(None, environment)?;
    /// let audit = Topic::new("Audit")?;
    /// let sort = each(move |message| {
    ///     if message.payload.get("audit").is_some_and(|audit| audit == "true") {
    ///         message.revise(Revision::Insert(vec![audit.clone()]));
    ///     }
    ///     Verdict::Forward
    /// });
    /// let stop = Stop::new("sort", &Topic::new("Sort")?, sort, &config).drain(Drain::default().join());
    /// stop.run(&*bus::open(&config)?, &Shutdown::default())?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn revise(&mut self, revision: Revision) {
        self.extra().revised.get_or_insert_default().add(revision);
    }

    /// Why a revised route cannot be taken.
    pub(crate) fn refused_revision(&self, limits: &Limits, stops: &Stops) -> Option<String> {
        let revised = self.revised()?;
        match &self.leg {
            Leg::OnItsWay(slip) => revised.refused(slip, limits, stops),
            _ => Some("revised without a slip to revise".into()),
        }
    }

    fn revised(&self) -> Option<&Revised> {
        self.extra.as_ref()?.revised.as_ref()
    }

    /// Says something of the message that the journal is to tell of this hop, whatever becomes of it. It is told to
    /// everybody who may read the journal, and cut where it is long.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.extra().remark = Some(text.into());
    }

    pub(crate) fn remarked(&self) -> Option<&str> {
        self.extra.as_ref()?.remark.as_deref()
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The topic of the next stop; `None` at the end of the journey.
    pub fn next_stop(&self) -> Option<&Topic> {
        let next = match &self.leg {
            Leg::None => None,
            Leg::OnItsWay(slip) => slip.next,
            Leg::Departs(departure) => departure.itinerary.stops.first(),
        };
        match self.revised() {
            None => next,
            Some(revised) => revised.next(next),
        }
    }

    /// Appends the value for the next stop: the slip advanced by one, the payload as it is now.
    pub fn write_next(&self, out: &mut Vec<u8>) {
        self.write_next_from("", out);
    }

    /// [`Message::write_next`] at the stop called `stop`, which the slip names where that one has revised it.
    pub(crate) fn write_next_from(&self, stop: &str, out: &mut Vec<u8>) {
        let slip = match &self.leg {
            Leg::None => return self.payload.write(out),
            Leg::OnItsWay(slip) => slip,
            Leg::Departs(departure) => return self.write_departed(departure, out),
        };
        let header = (offset(self.whole, slip.header), slip.header.len());
        let payload = (offset(self.whole, self.payload.raw()), self.payload.raw().len());
        let copy = |out: &mut Vec<u8>, from, to| out.extend_from_slice(&self.whole.as_bytes()[from..to]);
        if header.0 < payload.0 {
            copy(out, 0, header.0);
            self.write_header(slip, stop, out);
            copy(out, header.0 + header.1, payload.0);
            self.payload.write(out);
            copy(out, payload.0 + payload.1, self.whole.len());
        } else {
            copy(out, 0, payload.0);
            self.payload.write(out);
            copy(out, payload.0 + payload.1, header.0);
            self.write_header(slip, stop, out);
            copy(out, header.0 + header.1, self.whole.len());
        }
    }

    fn write_header(&self, slip: &Slip<'_>, stop: &str, out: &mut Vec<u8>) {
        match self.revised() {
            None => slip.write_advanced(out),
            Some(revised) => slip.write_with(&revised.fields(slip, stop), out),
        }
    }

    fn write_departed(&self, departure: &Departure, out: &mut Vec<u8>) {
        departure.write(out);
        self.payload.write(out);
        out.push(b'}');
    }

    /// Appends the value of a copy for its first stop.
    pub(crate) fn write_copy(&self, copy: &Copy<'_>, out: &mut Vec<u8>) {
        copy.write(out);
        self.payload.write(out);
        out.push(b'}');
    }
}
