//! Bounds of boxes and of what they say to each other.

use std::time::Duration;

use super::{CHUNK_BYTES_MAX, DATABASE_BYTES_PER_TURN_MAX, KIB, KV_VALUE_BYTES_MAX, MIB};

// ---- firming ----

/// What a box gives an order to become something, before it goes back to blank: long enough for an operator to mend a
/// cable, short enough that a box which was forgotten can be told something else the same day.
pub const FIRMING_TIME_MAX: Duration = Duration::from_mins(15);
/// Operators of a cloud.
pub const OPERATORS_MAX: usize = 64;
/// Doors that an order to join names: every voter that a cloud can have, and some to spare.
pub const DOORS_MAX: usize = 8;
/// Boxes of a cloud. What membership and the record's followers are measured for.
pub const BOXES_MAX: usize = 1000;
/// Keys that were evicted, 40 bytes each in every box's memory: a hundred lives of every box.
pub const BOXES_EVICTED_MAX: usize = 100_000;
/// Addresses of a box that the record keeps.
pub const BOX_ADDRESSES_MAX: usize = 16;
/// Labels of a box: where it stands, in some detail.
pub const BOX_LABELS_MAX: usize = 16;
/// How long `firm firm` and `firm reset` wait for the box: a large disk is wiped, a node drains.
pub const FIRM_WAIT_DEFAULT: Duration = Duration::from_mins(1);
/// Boxes that `firm boxes` knocks at at once.
pub const BOXES_KNOCKED_AT_ONCE: usize = 64;
/// What one address gets to answer it, all addresses of a box, and all boxes: who doesn't answer holds up nobody else.
pub const ADDRESS_LOOK_TIME_MAX: Duration = Duration::from_millis(1500);
pub const BOX_LOOK_TIME_MAX: Duration = Duration::from_secs(4);
pub const BOXES_LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// Characters of what a box says of itself that are shown: a sentence or two.
pub const FOREIGN_WORDS_CHARS_MAX: usize = 400;
/// Introductions that an operator's program keeps, 200 bytes each.
pub const INTRODUCTIONS_REMEMBERED_MAX: usize = 4096;
/// What an order gets to be on the box's disk: less than what the one who brings it waits (`KNOCK_ANSWER_TIME_MAX`).
pub const BOX_ORDER_TIME_MAX: Duration = Duration::from_secs(15);
/// Orders that wait for a box to look at them: each is looked at in the time of one small write.
pub const BOX_ORDERS_WAITING_MAX: usize = 16;
/// From a failed step to the next try, doubled each time: a door that is just starting is there in a moment, and one that
/// is down for long is knocked at four times a minute.
pub const RETRY_WAIT_MIN: Duration = Duration::from_millis(200);
pub const RETRY_WAIT_MAX: Duration = Duration::from_secs(15);

// ---- cloud.toml ----

/// Bytes of a `cloud.toml`. As many tenants as a cloud may have, with a limit and a domain each: 20,000 × 150 B = 3 MB; and
/// 1,000 boxes that are named and placed: 100 KB.
pub const CLOUD_FILE_BYTES_MAX: usize = 4 * MIB;
/// Entries of `[[boxes]]`: each of seven ways to combine three roles, on nine kinds of hardware or places.
pub const CLOUD_GROUPS_MAX: usize = 64;
/// Entries of `[[place]]`: at the most each box stands somewhere else.
pub const CLOUD_PLACES_MAX: usize = BOXES_MAX;
/// Addresses to knock at beyond the segment. One box of each of as many segments is enough.
pub const CLOUD_SEEDS_MAX: usize = 64;
/// Characters of a segment's name: an IPv6 net with its interface has 60.
pub const SEGMENT_NAME_CHARS_MAX: usize = 64;
/// The share of the memory asked for that a box must have, in percent: firmware and kernel keep some of what was bought,
/// 2 % of 64 GiB and 9 % of 512 MiB.
pub const MEMORY_OF_WANTED_PERCENT_MIN: u64 = 90;
/// Boxes of which a plan says why they don't fit a place that waits for one: a screen full. There may be thousands.
pub const BOXES_UNFIT_TOLD_MAX: usize = 24;

// ---- G'day ----

/// Sightings that a box keeps: four times the boxes that a cloud is made for, some 1 KiB each.
pub const SIGHTINGS_MAX: usize = 4096;
/// Addresses of one of them: a few cards, each with a few addresses.
pub const SIGHTING_ADDRESSES_MAX: usize = 16;
/// Names that the multicast DNS library may hold before it is made to forget: five for each sighting.
pub const GDAY_CACHE_MAX: i64 = 5 * 4096;
/// Seconds between two looks at the box's own interfaces: a cable that comes back is spoken over within as many.
pub const GDAY_INTERFACE_CHECK: u32 = 1;

// ---- what boxes ask of each other ----

/// An operation on a database of another box, both ways: a write that waits behind a slow sync takes a few seconds.
pub const TIER_DATA_TIME_MAX: Duration = Duration::from_secs(15);
/// How often a box says that it lives. 1,000 boxes are 1,000 small calls a second at the one that leads the record.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// What a beat has to arrive: so that a hanging leader holds up no more than a few.
pub const BEAT_TIME_MAX: Duration = Duration::from_secs(2);
/// What a box tells of what isn't well with it, each so long: with the others' 2 KiB a box, and 2 MiB of 1,000.
pub const CONCERNS_TOLD_MAX: usize = 8;
pub const CONCERN_CHARS_MAX: usize = 240;
/// What the others get to keep the record without a box that goes: a change of the voters, and the look before it.
pub const BOX_DRAIN_TIME_MAX: Duration = Duration::from_secs(40);
/// What a box that goes gives its cloud to hear of it. What it doesn't hear it sees: the box is silent.
pub const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);
/// A box that has heard of no leader for so long asks at the cloud's doors whether it is still of it, and again after as long.
pub const OUT_OF_TOUCH: Duration = Duration::from_secs(15);
/// How often a box looks whether its own addresses are still those that its cloud knows.
pub const BOX_MOVED_LOOK: Duration = Duration::from_secs(2);
/// Blank boxes that a box tells its cloud of, with so many addresses each.
pub const NEARBY_TOLD_MAX: usize = 64;
pub const NEARBY_ADDRESSES_MAX: usize = 4;
/// What an auth box gets to make a token: a command of the record, and the way there and back.
pub const MINT_TIME_MAX: Duration = Duration::from_secs(5);
/// Tokens whose signature a box remembers to be right, 40 bytes each.
pub const TOKENS_CHECKED_MAX: usize = 16_384;
/// Operators' wishes for access that an auth box remembers, so that none is fulfilled twice while it is young.
pub const ACCESS_WISHES_REMEMBERED: usize = 4_096;
/// How often `firm apply` looks again while it waits.
pub const APPLY_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes of a database that travel at once, and what the other box gets to write them; with the last to sync all.
pub const DATABASE_PIECE_BYTES: usize = MIB;
pub const DATABASE_PIECE_TIME_MAX: Duration = Duration::from_secs(30);
/// Databases that arrive at once. Each box that goes sends one at a time.
pub const ARRIVALS_MAX: usize = 64;
/// How long a command waits for the data of a box that goes: 60 GB at 1 Gbit/s.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_mins(10);
/// A box that was silent for so long is shown as such: three beats and the time of one.
pub const BOX_SILENCE: Duration = Duration::from_secs(4);
/// A voter that is silent for so long is replaced where another box can vote: longer than a restart takes.
pub const VOTER_SILENCE_MAX: Duration = Duration::from_mins(1);
/// A chunk from another box, or chunks to it: 4 MiB at 3 Mbit/s.
pub const TIER_CHUNK_TIME_MAX: Duration = Duration::from_secs(12);
/// Persistence boxes that hold each chunk of a release. More than half of them must have it before the release is one: then
/// one may be lost, and another be away meanwhile.
pub const CHUNK_COPIES: usize = 3;
/// Boxes that are tried for one chunk: those that should hold it, and as many more in their place. A push with more
/// boxes away than these is refused.
pub const CHUNK_HOLDERS_TRIED_MAX: usize = 2 * CHUNK_COPIES;
/// Digests of one question about chunks: 4,096 × 65 B are 260 KiB, and 40 KiB of sizes come back. `LINK_DATA_BYTES_MAX` is
/// four times that.
pub const TIER_DIGESTS_MAX: usize = 4_096;
/// What a box gets to answer it: so many looks at its disk are 100 ms.
pub const TIER_HELD_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of chunks that one call carries, one of the largest or many small ones; and how many small ones at the most, with
/// 70 B of name and length each. `LINK_BULK_BYTES_MAX` is four times that.
pub const TIER_PACK_BYTES_MAX: usize = CHUNK_BYTES_MAX;
pub const TIER_PACK_CHUNKS_MAX: usize = 1_024;
/// Such calls of all pushes of a box at once: 16 × 4 MiB, read and then written as one body, are 128 MiB.
pub const TIER_PACKS_AT_ONCE: usize = 16;
/// Boxes that one push or question speaks to at once.
pub const TIER_BOXES_AT_ONCE: usize = 4;
/// What a box gets to make chunks durable: 4 GiB at 70 MB/s.
pub const TIER_SETTLE_TIME_MAX: Duration = LINK_CALL_TIME_MAX;
/// How long a box waits to hear of what another speaks of, a tenant or an app: news is a few ms behind, and a second where a
/// link was lost.
pub const TIER_NEWS_TIME_MAX: Duration = Duration::from_secs(2);
/// Chunks and indexes that one sweep fetches because this box should hold them: 4,096 of 1 MiB in ten minutes are 7 MiB/s.
pub const SWEEP_FETCHES_MAX: usize = 4_096;

// ---- knocking at a box ----

/// Where a box listens for those who aren't of its cloud.
pub const KNOCK_PORT: u16 = 7741;
/// From there to where it listens for the links of its cloud.
pub const LINK_PORT_AFTER: u16 = 1;
/// Bytes of a message. The longest is what a box gets that joins: its certificate, the roots, the keys of its roles.
pub const KNOCK_FRAME_BYTES_MAX: usize = 256 * KIB;
/// Visitors at once, each with a TLS connection of some 40 KiB and a frame: 64 × 300 KiB are 19 MiB.
pub const KNOCKS_AT_ONCE: u32 = 64;
/// Of them from one address (a /64 of IPv6). An operator's program has one visit to a box at a time, and a box that joins
/// one more.
pub const KNOCKS_PER_ADDRESS_AT_ONCE: u32 = 8;
/// Visits of one address: 32 at once, then four a second. A person who lists boxes knocks once each time.
pub const KNOCKS_PER_ADDRESS_EVERY: Duration = Duration::from_millis(250);
pub const KNOCKS_PER_ADDRESS_BURST: u32 = 32;
/// Addresses that are remembered for it, 64 bytes each. A flood of more is let in no more until they are forgotten.
pub const KNOCK_ADDRESSES_MAX: usize = 4096;
/// From the first SYN to the end of the handshake.
pub const KNOCK_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// From one message to the next. A box that joins waits for a command of the record, a few seconds at the worst.
pub const KNOCK_ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// From one message of an introduction to the next, by a stranger.
pub const INTRODUCE_TIME_MAX: Duration = Duration::from_secs(5);
/// A whole visit: a stranger has one of the door's places for so long at the most.
pub const VISIT_TIME_MAX: Duration = Duration::from_mins(1);
/// The life of a seal: ten years, in which a box may lie in a drawer.
pub const SEAL_TIME_MAX: Duration = Duration::from_hours(24 * 3650);
/// How often a box's log tells of refused orders: strangers send as many as they like.
pub const ORDERS_REFUSED_TOLD_EVERY: Duration = Duration::from_mins(1);
/// Others with its own key that a box's console tells of in one life: one who copies names can make up any number.
pub const TWINS_TOLD_MAX: usize = 8;
/// Orders of one visit. A program that orders gives one.
pub const ORDERS_PER_VISIT_MAX: u32 = 8;
/// Introductions that a box remembers, and for how long: long enough to walk to the next room and back, over lunch.
pub const INTRODUCTIONS_KEPT_MAX: usize = 256;
/// Of them with visitors from one address: who introduces new keys without end pushes out their own alone.
pub const INTRODUCTIONS_PER_ADDRESS_MAX: usize = 16;
pub const INTRODUCTION_TIME_MAX: Duration = Duration::from_hours(2);

// ---- the cloud's authority ----

/// Life of a box's certificate. It is renewed at half of that, so that an authority may be away for twelve hours.
pub const CERTIFICATE_LIFE: Duration = Duration::from_hours(24);
/// What an authority gets to answer a box that renews, and how long the box waits before it asks again: hundreds of times
/// in the half of a certificate's life that is left.
pub const RENEW_TIME_MAX: Duration = Duration::from_secs(30);
/// What a box's clock may be off, either way. The issuer's and the reader's may be off to opposite sides, so that a
/// certificate is valid from twice this before its issue until twice this after its life.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(10);
/// Roots that a box believes at once: the one that issues and, while the cloud rolls over, its successor.
pub const ROOTS_MAX: usize = 2;
/// Bytes of a certificate, of a box or a root: ours have 500.
pub const CERTIFICATE_BYTES_MAX: usize = 4 * KIB;

// ---- links ----

/// Bytes of a call's body and of its answer. Control: votes, orders and news, which must never wait for much. Data: a
/// value of `KV_VALUE_BYTES_MAX` with its key and head. Bulk: a chunk, or all that one turn of a database writes.
pub const LINK_CONTROL_BYTES_MAX: usize = 64 * KIB;
pub const LINK_DATA_BYTES_MAX: usize = KV_VALUE_BYTES_MAX + 64 * KIB;
pub const LINK_BULK_BYTES_MAX: usize = DATABASE_BYTES_PER_TURN_MAX + 64 * KIB;
/// Calls in flight on one connection. At the very worst each holds a body or an answer of the largest size: control
/// 256 × 64 KiB = 16 MiB, data 256 × 1.06 MiB = 272 MiB, bulk 8 × 16 MiB = 128 MiB.
pub const LINK_CONTROL_CALLS_MAX: usize = 256;
pub const LINK_DATA_CALLS_MAX: usize = 256;
pub const LINK_BULK_CALLS_MAX: usize = 8;
/// Calls that wait for one of those places, before the next is told that the link is busy. At 10 µs a call the last of
/// them waits for 10 ms.
pub const LINK_CALLS_WAITING_MAX: usize = 1024;
/// Bytes of bodies that wait for a connection to take them, and of answers before a connection reads no further calls.
pub const LINK_CONTROL_BYTES_WAITING_MAX: usize = 4 * MIB;
pub const LINK_DATA_BYTES_WAITING_MAX: usize = 32 * MIB;
pub const LINK_BULK_BYTES_WAITING_MAX: usize = 64 * MIB;
/// Time that a call may have. A caller who needs longer asks again.
pub const LINK_CALL_TIME_MAX: Duration = Duration::from_mins(1);
/// Bytes of the words of a refusal.
pub const LINK_REFUSAL_BYTES_MAX: usize = 1024;
/// Connections of one class that a box holds to another, each for a part of its cores.
pub const LINK_LANES_MAX: u8 = 8;
/// Connections that a box accepts from one other: three classes × 8 lanes, twice while certificates are renewed.
pub const LINKS_PER_BOX_MAX: usize = 3 * LINK_LANES_MAX as usize * 2;
/// Connections that a box accepts in all. 1,000 boxes with six each; at rest one has 100 KiB, most of it TLS's buffers.
pub const LINKS_ACCEPTED_MAX: usize = 8192;
/// Other boxes that a box may have links to or addresses of: a cloud of 1,000 boxes, with room.
pub const LINK_BOXES_MAX: usize = 4096;
/// Addresses of one box: four interfaces, IPv4 and IPv6.
pub const LINK_ADDRESSES_MAX: usize = 8;
/// Handshakes under way, in all and from one address: 20 boxes of a practice segment may share one and dial all classes.
pub const LINK_HANDSHAKES_MAX: usize = 512;
pub const LINK_HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// A handshake, from the first byte to the welcome: four trips of 200 ms and what a loaded box takes, with room.
pub const LINK_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Handshakes that may fail from one address, before it is turned away unheard, and how fast that is forgiven. A
/// handshake takes 0.3 ms of a core: a flooder gets 20 × 0.3 ms a second.
pub const LINK_FAILURES_MAX: u32 = 64;
pub const LINK_FAILURES_FORGIVEN_PER_SECOND: u32 = 20;
/// Addresses whose failures are remembered: 64 bytes each. When it is full the longest forgiven is forgotten.
pub const LINK_ADDRESSES_REMEMBERED_MAX: usize = 4096;
/// How long a dial waits for one address before it tries the next one as well (RFC 8305, 5: 250 ms).
pub const LINK_DIAL_STAGGER: Duration = Duration::from_millis(250);
/// A dial in all: the last of eight addresses begins after 1.75 s and has the time of a handshake.
pub const LINK_DIAL_TIME_MAX: Duration = Duration::from_secs(7);
/// From a dial that failed to the next, doubled each time, less up to half by chance. Who calls meanwhile is told at once.
pub const LINK_BACKOFF_MIN: Duration = Duration::from_millis(50);
pub const LINK_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that was silent for so long is asked for a sign, and one that was silent for so long is given up. Two
/// looks are half of the first apart: a cut cable is noticed within 8 s. Both ends also let the kernel give up on what
/// was sent and isn't acknowledged (RFC 5482).
pub const LINK_PING_AFTER: Duration = Duration::from_secs(3);
pub const LINK_SILENCE_MAX: Duration = Duration::from_secs(6);
/// A frame that began and doesn't end: 16 MiB at 5 Mbit/s.
pub const LINK_FRAME_TIME_MAX: Duration = Duration::from_secs(30);
/// A link that nobody called on for so long is closed; the next call dials.
pub const LINK_IDLE_MAX: Duration = Duration::from_mins(10);
/// How often the other side's certificate is judged again, beyond the times that something changed: 0.1 ms each.
pub const LINK_JUDGE_EVERY: Duration = Duration::from_mins(5);
/// When a certificate is renewed, each link dials anew at some moment within this: 6,000 links are 100 a second.
pub const LINK_REDIAL_SPREAD: Duration = Duration::from_mins(1);
/// Frames that a connection handles before others on its core have their turn: 128 × 3 µs.
pub const LINK_FRAMES_PER_TURN: usize = 128;
/// Bytes that are taken from a socket at once, and a body up to which copying is cheaper than a place of its own.
pub const LINK_READ_BYTES: usize = 64 * KIB;
pub const LINK_COPIED_BYTES_MAX: usize = 4 * KIB;
/// Bytes that the kernel holds of a link and hasn't sent: what waits beyond waits here, where it is bounded and a silent
/// other side is seen. At 10 Gbit/s the kernel asks for more every 200 µs.
pub const LINK_UNSENT_BYTES_MAX: u32 = 256 << 10;
/// Pieces that are handed to TLS at once.
pub const LINK_PIECES_PER_WRITE: usize = 32;
