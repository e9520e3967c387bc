//! Every bound of the house, each with its arithmetic or its reason.
//!
//! At each limit there is one refusal that says which limit it was. Limits that a hoster may want to move
//! are the defaults of an option or a manifest key; the ones that end in `_MAX` and stand in neither are fixed.

mod boxes;

use std::time::Duration;

pub use boxes::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

// ---- names ----

/// Bytes of a name. `stage--app` must fit one DNS label of 63 bytes only when both are short; the router
/// refuses the pair that doesn't fit. 40 leaves room for a stage of 21.
pub const NAME_BYTES_MAX: usize = 40;
/// RFC 1035, 2.3.4: 255 octets on the wire, 253 in text.
pub const DOMAIN_BYTES_MAX: usize = 253;
/// RFC 1035, 2.3.4.
pub const LABEL_BYTES_MAX: usize = 63;

// ---- the manifest ----

/// Bytes of a `firm.toml`. The largest that people write by hand is a few KiB.
pub const MANIFEST_BYTES_MAX: usize = 256 * KIB;
/// Faults of a `firm.toml` that are told at once: two screens full. For each misshapen place the text is read anew.
pub const MANIFEST_FAULTS_MAX: usize = 20;
/// Routes of an app: they are searched in order of length for each request.
pub const ROUTES_MAX: usize = 256;
/// Components of an app. Each is compiled at push.
pub const COMPONENTS_MAX: usize = 16;
/// Static folders of an app.
pub const STATICS_MAX: usize = 16;
/// Bindings of one kind (KV buckets, secrets) an app may name.
pub const BINDINGS_MAX: usize = 64;
/// Hosts on an app's outbound allow-list.
pub const OUTBOUND_HOSTS_MAX: usize = 64;
/// Environment variables of an app.
pub const ENV_VARS_MAX: usize = 256;
/// Bytes of one environment variable or secret.
pub const ENV_VALUE_BYTES_MAX: usize = 32 * KIB;
/// Bytes of all variables of a stage, names included, and of all its secrets. Each of an app's 100 releases keeps a
/// copy of the variables in memory: 25 MiB an app at the very worst.
pub const ENV_BYTES_MAX: usize = 256 * KIB;
/// Redirects of an app: a moved site's few hundred addresses; one that needs more moves by pattern. Each request looks
/// at all of them, 256 × a few ns.
pub const REDIRECTS_MAX: usize = 256;
/// Redirects that may follow one another within an app. Browsers give up after 20; eight are a mistake already.
pub const REDIRECT_HOPS_MAX: usize = 8;
/// Rules for header fields of an app. Each is matched against the path of each request: 64 × 10 ns for a usual path,
/// 64 × 8 µs for one of 8 KiB.
pub const HEADER_RULES_MAX: usize = 64;
/// Bytes of all fields that these rules name: what every answer's head may grow by at the most. nginx takes heads of
/// 4 to 8 KiB from an upstream, browsers 256 KiB.
pub const HEADER_RULE_BYTES_MAX: usize = 16 * KIB;
/// Patterns of one list (`immutable`).
pub const PATTERNS_MAX: usize = 32;
/// Bytes of one pattern, and `*` in it.
pub const PATTERN_BYTES_MAX: usize = 1024;
pub const PATTERN_STARS_MAX: usize = 4;
/// Stages of an app, `live` included.
pub const STAGES_PER_APP_MAX: usize = 32;
/// Releases that an app remembers. The oldest that no stage runs is forgotten first.
pub const RELEASES_PER_APP_MAX: usize = 100;
/// Stage changes (push, promote, rollback) that a stage remembers.
pub const STAGE_HISTORY_MAX: usize = 100;
/// Apps of a tenant, and tenants and domains of a cloud: the 10,000 idle apps that one box must carry, with room.
pub const APPS_PER_TENANT_MAX: usize = 20_000;
pub const TENANTS_MAX: usize = 20_000;
pub const DOMAINS_PER_APP_MAX: usize = 64;
pub const TOKENS_PER_TENANT_MAX: usize = 256;
/// Bytes of a token's label, and of what a push says about where it came from.
pub const LABEL_TEXT_BYTES_MAX: usize = 200;

// ---- a push ----

/// Bytes of one chunk: what an upload request may carry, and what is hashed and written in one go.
pub const CHUNK_BYTES_MAX: usize = 4 * MIB;
/// The mean that the content-defined chunker aims at; small enough that a changed line in a 13 MB component
/// costs about one chunk.
pub const CHUNK_BYTES_AVG: usize = MIB;
pub const CHUNK_BYTES_MIN: usize = 256 * KIB;
/// Bytes of one file of a release.
pub const FILE_BYTES_MAX: u64 = GIB;
/// Bytes of all files of a release.
pub const RELEASE_BYTES_MAX: u64 = 4 * GIB;
/// Files of a release: their index is one chunk of JSON, about 200 bytes a file: 20,000 × 200 B = 4 MB. An encoding of
/// a file takes about 100 more; where that is too much, `firm push` leaves encodings out.
pub const RELEASE_FILES_MAX: usize = 20_000;
/// Bytes of a path within a release.
pub const ASSET_PATH_BYTES_MAX: usize = 1024;
/// Files worth an encoding of their own: below a KiB the answer's head is most of it, and above 8 MiB nothing is text
/// that people wait for. Each thread that encodes holds one file, one result and zstd's tables, 120 MiB at the most; it
/// is the developer's machine.
pub const ENCODED_FILE_BYTES_MIN: u64 = 1 << 10;
pub const ENCODED_FILE_BYTES_MAX: u64 = 8 << 20;
/// An encoding saves so many hundredths, or isn't worth its place.
pub const ENCODING_SAVES_PERCENT_MIN: u64 = 10;
/// Threads that encode at once during a push.
pub const ENCODERS_AT_ONCE_MAX: usize = 8;
/// Bytes of a component. A JavaScript component is 13 MB, a Python one 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// Wall time of one compilation. 18 MB of Python took 10 s on two cores.
pub const COMPILE_TIME_MAX: Duration = Duration::from_mins(2);
/// Address space of the compile process: Cranelift peaks near 1 GiB for 18 MB of Python.
pub const COMPILE_MEMORY_MAX: u64 = 6 * GIB;
/// Bytes that the compile process may answer: native code is 3 to 6 times its wasm.
pub const ARTIFACT_BYTES_MAX: u64 = 512 << 20;
/// Compilations at once on a box, each of another tenant; further pushes wait their turn. Each uses all cores where it
/// can, so that two are no slower than one after the other.
pub const COMPILES_AT_ONCE: usize = 2;
/// Pushes that may wait for the compiler before the next is refused with 503, and those of one tenant among them.
pub const COMPILES_WAITING_MAX: usize = 32;
pub const COMPILES_WAITING_PER_TENANT_MAX: usize = 8;
/// Apps that wait for their code to be made ready before somebody asks for it, 60 bytes each. A second of compilation each
/// is a quarter of an hour; what is older than those may wait for its visitor.
pub const AHEAD_APPS_WAITING_MAX: usize = 1_024;
/// From a change of who holds what to the sweep that makes up for it: boxes come several at a time.
pub const SWEEP_SOON: Duration = Duration::from_secs(2);
/// How often orphaned chunks and artifacts are swept.
pub const SWEEP_EVERY: Duration = Duration::from_mins(10);
/// Free disk under which the box is concerned: four releases of the largest size would not fit, but writes still do.
pub const DISK_FREE_BYTES_MIN: u64 = GIB;
/// The last of a disk, which tenants may not have: with it the record can be written, and what tenants have be deleted.
pub const DISK_RESERVED_BYTES: u64 = 256 << 20;
/// How often it is looked at, at the most. The fastest disk takes less than the reserve meanwhile.
pub const DISK_LOOK: Duration = Duration::from_millis(20);
/// Age at which a chunk that no release names is swept: longer than any push lasts.
pub const CHUNK_ORPHAN_AGE: Duration = Duration::from_hours(1);

/// New chunks of a release that are synced one by one; for more, the whole file system is synced once. A sync is
/// 1.2 ms, so this is 40 ms, about what syncing everybody's writes costs.
pub const CHUNKS_SYNCED_SINGLY_MAX: usize = 32;

/// Damaged chunks that are remembered, so that a push replaces them: 48 bytes each. A disk with more is beyond that.
pub const CHUNKS_DAMAGED_MAX: usize = 65_536;

// ---- the record ----

/// Commands that one durable append may carry: one fdatasync for all who wait.
pub const COMMANDS_PER_APPEND_MAX: usize = 256;
/// Commands that may wait for the log before the next is refused.
pub const COMMANDS_WAITING_MAX: usize = 1024;
/// Commands after which the record is written as a snapshot and the log is cut. Replay of one is about
/// 10 µs, so a start replays at the most 20 ms of log.
pub const COMMANDS_PER_SNAPSHOT: u64 = 2_000;
/// Bytes of log after which it is cut likewise: commands may carry a manifest of 256 KiB each. JSON is read at
/// 200 MB/s or more, so this is a third of a second of start.
pub const RECORD_LOG_BYTES_MAX: usize = 64 * MIB;
/// Bytes of one row of a snapshot: SQLite takes no text of more than 1 GB, and a part is copied once.
pub const RECORD_SNAPSHOT_PART_BYTES: usize = 64 * MIB;
/// Appends that a watcher of the record may be behind before it is told to build everything anew.
pub const RECORD_NEWS_WAITING_MAX: usize = 256;
/// Bytes of one command as JSON: a manifest of 256 KiB and 256 KiB of variables are the largest parts that one has, and
/// JSON may write a byte as two.
pub const RECORD_ENTRY_BYTES_MAX: usize = MIB;
/// Commands of which a copy is told, so that one whose fate was unknown can be proposed again: ten boxes' full queues
/// come to 10,240 at once, but a proposal waits for three seconds at the most, and a disk takes some 1,000 commands a
/// second from one who waits for each. 16 bytes of id each, 128 KiB as JSON.
pub const COMMANDS_REMEMBERED: u64 = 4_096;
/// Commands that stay in the log though a snapshot has them, so that a box that is a little behind needs no snapshot:
/// 256 × 256 KiB are 64 MiB at the very worst.
pub const COMMANDS_KEPT_AFTER_SNAPSHOT: u64 = 256;
/// Free bytes on its disk without which the record takes no command. What waits then still has room: an append of 256
/// commands of 4 KiB, with its copy in the database file, is 2 MiB.
pub const RECORD_RESERVED_BYTES: u64 = 8 << 20;
/// Writes that may wait for the record's file: an append for each waiting command at the most.
pub const RECORD_WRITES_WAITING_MAX: usize = COMMANDS_WAITING_MAX;
/// How often a full disk is tried again.
pub const RECORD_FULL_LOOK: Duration = Duration::from_millis(250);

// ---- the record's group ----

/// Voters of a group. Five survive the loss of two, and each more is one more sync to wait for.
pub const VOTERS_MAX: usize = 5;
/// How often a leader tells the others that it lives. A sync of 63 ms, the slowest of a hundred, fits in between.
pub const RECORD_HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a voter waits for a leader before it asks for votes: four lost heartbeats at the least. It is drawn anew each
/// time, so that two rarely ask at once. While any voter has heard of a leader within the longest, it gives no vote; two
/// rounds of asking are over 1.4 s after the leader's last word.
pub const RECORD_ELECTION_TIME_MIN: Duration = Duration::from_millis(400);
pub const RECORD_ELECTION_TIME_MAX: Duration = Duration::from_millis(700);
/// Time after which whoever led is taken for gone.
pub const RECORD_LEASE: Duration = RECORD_ELECTION_TIME_MAX;
/// How often a lone box's group looks at the time: nobody waits for it.
pub const RECORD_LONE_HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a proposal waits to be decided: twice the time that a new leader takes.
pub const PROPOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// How often a proposal looks for a leader.
pub const PROPOSE_LOOK: Duration = Duration::from_millis(20);
/// Proposals of other boxes that may wait for this one to decide them.
pub const PROPOSALS_FORWARDED_MAX: usize = COMMANDS_WAITING_MAX;
/// Time for another box to answer: a sync of the slowest kind and a round trip, and a third of what a proposal has.
pub const RECORD_CALL_TIME: Duration = Duration::from_secs(1);
/// Calls of other boxes that may wait for this one. Followers are most of them.
pub const RECORD_CALLS_WAITING_MAX: usize = 4_096;
/// Bytes of one message between boxes: entries and a snapshot's piece are the largest parts, a MiB each, after which one
/// entry more of a MiB may come. JSON in JSON writes a quote as two bytes.
pub const RECORD_MESSAGE_BYTES_MAX: usize = 4 * MIB;
/// A message of more bytes is heavy, and goes where it makes no vote wait: what a control call may have.
pub const RECORD_LIGHT_BYTES_MAX: usize = LINK_CONTROL_BYTES_MAX;
/// Entries that one message carries, and their bytes, of which the last entry may be the one that passes them.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 256;
pub const RECORD_MESSAGE_ENTRIES_BYTES: usize = MIB;
/// Bytes of a snapshot's text that one message carries.
pub const RECORD_SNAPSHOT_PIECE_BYTES: usize = MIB;
/// Bytes of a snapshot that another box may send: it is held in memory as a whole. 10,000 tenants' records are a tenth.
pub const RECORD_SNAPSHOT_BYTES_MAX: u64 = GIB;
/// Time for one piece of a snapshot. With the last one it is read, written and synced: 1 GiB at 100 MB/s.
pub const RECORD_SNAPSHOT_CALL_TIME: Duration = Duration::from_secs(15);
/// Time for a change of the voters: a newcomer fetches a snapshot of 100 MB in less, and an operator waits no longer.
pub const VOTERS_TIME_MAX: Duration = Duration::from_secs(30);
/// Boxes that wait on this one for what is decided next: a cloud of 1,000 boxes on its last persistence box.
pub const FOLLOWERS_WAITING_MAX: usize = 1_024;
/// How long such a box waits before it asks another: what it may miss, if this one is cut off. 1,000 boxes that ask once a
/// second are nothing.
pub const FOLLOW_WAIT: Duration = Duration::from_secs(1);
/// How soon a box that follows asks again where nobody answered; then twice as long each time, up to the latter.
pub const FOLLOW_LOOK: Duration = Duration::from_millis(50);
pub const FOLLOW_LOOK_MAX: Duration = Duration::from_secs(1);

// ---- databases ----

/// Threads that own databases. A database belongs to one of them for good.
pub const DATABASE_THREADS: usize = 4;
/// Databases that one owner thread holds open; the least recently used is closed for the next.
pub const DATABASES_OPEN_PER_THREAD_MAX: usize = 64;
/// Operations that may wait for one owner thread before the next is refused.
pub const DATABASE_OPERATIONS_WAITING_MAX: usize = 4_096;
/// Operations of one tenant among those: one app at its highest concurrency fits, and eight tenants who flood one
/// thread don't fill it for the others before their own are refused.
pub const DATABASE_OPERATIONS_WAITING_PER_TENANT_MAX: usize = 512;
/// Bytes of keys and values that may wait for one owner thread, and those of one tenant among them.
pub const DATABASE_BYTES_WAITING_MAX: usize = 256 * MIB;
pub const DATABASE_BYTES_WAITING_PER_TENANT_MAX: usize = 32 * MIB;
/// Bytes that one turn of a database reads or writes before others have theirs: an NVMe disk's 10 ms.
pub const DATABASE_BYTES_PER_TURN_MAX: usize = 16 * MIB;
/// Bytes of pages that one open database keeps in memory. 4 threads × 64 open × 2 (one reads, one writes) × 512 KiB
/// = 256 MiB at the most.
pub const DATABASE_CACHE_BYTES_MAX: usize = 512 * KIB;
/// Operations that share one transaction, and so one fdatasync.
pub const DATABASE_OPERATIONS_PER_COMMIT_MAX: usize = 256;
/// Bytes of one database file.
pub const DATABASE_BYTES_MAX: u64 = GIB;
/// Pages in a database's write-ahead log from which on they are brought into its file: SQLite's own number.
pub const DATABASE_LOG_PAGES: i32 = 1_000;
/// Bytes of a KV key and of a KV value.
pub const KV_KEY_BYTES_MAX: usize = 1024;
pub const KV_VALUE_BYTES_MAX: usize = MIB;
/// Keys that one `list-keys` page returns.
pub const KV_LIST_PAGE: usize = 1_000;
/// Keys of one batch call.
pub const KV_BATCH_MAX: usize = 100;
/// Bytes of keys and values of one batch call, in or out: what one turn of a database carries.
pub const KV_BATCH_BYTES_MAX: usize = DATABASE_BYTES_PER_TURN_MAX;

/// A dropped database is remembered, so that no request which had begun before makes it again: for longer than any may take
/// ([`REQUEST_TIME_MAX`] and what it waits for). Those that are older are looked for when there are so many.
pub const DATABASE_DROPPED_KEPT: Duration = Duration::from_mins(30);
pub const DATABASES_DROPPED_LOOK_THROUGH: usize = 1_024;
/// Bytes of all values that are held in memory for those who ask next, with all that holding them takes: one
/// sixteenth of a GiB for the whole box, what one core may hold of static files.
pub const KV_CACHE_BYTES_MAX: usize = 64 * MIB;
/// Bytes of one tenant among those: one who reads without end leaves three quarters to the others, and only four who do
/// so at once push out what others asked for before.
pub const KV_CACHE_BYTES_PER_TENANT_MAX: usize = KV_CACHE_BYTES_MAX / 4;
/// Parts of that memory, each with a lock of its own and an equal share of the bytes: 1 MiB, and 256 KiB a tenant. A
/// look takes some 100 ns, so two cores that do nothing else meet in one look of 64.
pub const KV_CACHE_SHARDS: usize = 64;
/// Bytes of a value that is held: fifteen of the largest fit a tenant's part of a shard, and most are far smaller.
pub const KV_CACHED_VALUE_BYTES_MAX: usize = 16 * KIB;
/// Bytes that a held value takes beside its key and itself: 112 for its place in the list and 20 in the table, twice,
/// as a place that is free is kept until half of them are; 56 for the bucket's name; 3 × 16 that the allocator takes,
/// and 32 to count who has the value. 400, rounded up. A tenant's part of a shard is counted as one more.
pub const KV_CACHED_ENTRY_BYTES: usize = 416;
/// Counters of a shard that tell whether a key was written while it was read. Two keys that share one cost each other
/// a value that isn't held. 64 × 64 × 16 bytes = 64 KiB.
pub const KV_CACHE_STRIPES_PER_SHARD: usize = 64;
/// Databases with a write that failed, of which nothing is held until the next start: 64 × 1,024 × 16 bytes = 1 MiB.
/// With more the disk is failing, and nothing is held of any.
pub const DATABASES_DISTRUSTED_MAX: usize = 1_024;

// ---- logs ----

/// Bytes of one line of an app's log; the rest of a longer line is cut and says so.
pub const LOG_LINE_BYTES_MAX: usize = 8 * KIB;
/// Bytes of one log file of an app; two are kept of what it says, two of its faults and two of its access lines, so an app
/// holds at the most six times this.
pub const LOG_FILE_BYTES_MAX: u64 = 4 << 20;
/// Lines that wait for a slow follower before it is told how many it missed.
pub const LOG_LINES_WAITING_MAX: usize = 1_024;
/// Lines that one app may write in a second, and faults and access lines that it gets; more are counted and dropped.
pub const LOG_LINES_PER_SECOND_MAX: u64 = 2_000;
/// Lines of all apps that wait for the writer: 64 MiB when each is as long as it may be. More are counted and dropped.
pub const LOG_LINES_QUEUED_MAX: usize = 8_192;
/// Access lines that a core hands to the writer in one go, and the time after which it hands on fewer: waking another
/// thread for each line would cost more than the line.
pub const LOG_BATCH_LINES_MAX: usize = 64;
pub const LOG_BATCH_TIME_MAX: Duration = Duration::from_millis(100);
/// Batches of all cores that wait for the writer: 128 × 64 lines of 5.4 KB at the very worst
/// are 44 MB. More are counted and dropped.
pub const LOG_BATCHES_QUEUED_MAX: usize = 128;
/// Bytes of an access line's method, of its path (and query) and of its user agent; the rest is cut. An escaped byte
/// is four, so a line has 4 × (16 + 1,024 + 256) B and some 100 for the rest: 5.3 KB, within `LOG_LINE_BYTES_MAX`.
pub const ACCESS_METHOD_BYTES_MAX: usize = 16;
pub const ACCESS_TARGET_BYTES_MAX: usize = KIB;
pub const ACCESS_AGENT_BYTES_MAX: usize = 256;
/// Log files that the writer keeps open; the least recently used is closed for the next.
pub const LOG_FILES_OPEN_MAX: usize = 256;
/// Apps whose rate of lines is remembered at once: 100 bytes each. Beyond, all start anew.
pub const LOG_GATES_MAX: usize = 65_536;
/// Lines that one look at a log returns: more than anybody reads, 80 MB at the very most.
pub const LOG_TAIL_LINES_MAX: usize = 10_000;
/// Bytes of a request's id in a line.
pub const LOG_REQUEST_BYTES_MAX: usize = 128;
/// Other boxes' readers of a box's logs: one for each member of a tenant who looks at a log now, on whichever box; and those
/// of one tenant among them.
pub const LOG_READERS_MAX: usize = 1_024;
pub const LOG_READERS_PER_TENANT_MAX: usize = 32;
/// A reader that nobody asked for so long is gone: who listens asks at least every `LOG_POLL_TIME_MAX`.
pub const LOG_READER_IDLE_MAX: Duration = Duration::from_secs(10);
/// Bytes of lines of the past that all of them hold together. An app's six files are 24 MiB: ten such, or thousands of
/// usual ones.
pub const LOG_PAST_BYTES_MAX: usize = 256 * MIB;
/// Logs that are read from disk at once for other boxes: 4 × 24 MiB.
pub const LOG_READS_AT_ONCE: usize = 4;
/// Bytes of lines after which a page is full; the last line may pass it by its own 48 KiB, each byte escaped.
pub const LOG_PAGE_BYTES_MAX: usize = 64 * KIB;
/// How long a reader waits for a line before it gives an empty page.
pub const LOG_POLL_TIME_MAX: Duration = Duration::from_secs(1);
/// What a box gets to open a reader, and to give a page: its wait, and a trip over a slow line.
pub const LOG_BEGIN_TIME_MAX: Duration = Duration::from_secs(4);
pub const LOG_NEXT_TIME_MAX: Duration = Duration::from_secs(4);
/// How soon a box that gave no lines is asked again.
pub const LOG_LOOK: Duration = Duration::from_secs(1);
/// How often one who listens looks for boxes that have come.
pub const LOG_BOXES_LOOK: Duration = Duration::from_secs(1);
/// Boxes that are asked at once to open a reader.
pub const LOG_BOXES_AT_ONCE: usize = 32;

// ---- tenants' code ----

/// Instances that live at once on a box, and memories that they have: each takes 4 GiB of address space. 1,000 × 4 GiB is
/// 4 TiB of the 128 TiB that a process has; memory is only what is touched.
pub const INSTANCES_MAX: u32 = 1_000;
/// Memories that the instances of one tenant have at the most: half of all, however many each of them has.
pub const TENANT_MEMORIES_MAX: usize = INSTANCES_MAX as usize / 2;
/// Stacks of guests: a 0.3 component may have a second fiber while its first one waits.
pub const GUEST_STACKS_MAX: usize = 2 * INSTANCES_MAX as usize;
/// Memories and stacks that wait on a core for their next instance.
pub const MEMORIES_IDLE_PER_CORE_MAX: usize = 64;
pub const STACKS_IDLE_PER_CORE_MAX: usize = 64;
/// Bytes of a memory that are wiped rather than given back, so that the next instance needn't fault them in: a JavaScript
/// hello writes to 0.6 MiB. 64 × 2 MiB is 128 MiB a core at the worst, which go when memory is short.
pub const MEMORY_KEEP_RESIDENT_BYTES: usize = 2 * MIB;
/// Bytes that are given back to the kernel in one call: some 50 µs.
pub const MEMORY_GIVE_BACK_BYTES: usize = MIB;
/// Instances of one tenant among those: an app at its highest concurrency fits, and no tenant alone keeps the box
/// from all others, however many apps it has.
pub const INSTANCES_PER_TENANT_MAX: usize = APP_CONCURRENCY_MAX as usize;
/// The most that a manifest may ask for.
pub const INSTANCE_MEMORY_MAX: u64 = GIB;
pub const INSTANCE_MEMORY_DEFAULT: u64 = 128 << 20;
pub const REQUEST_CPU_MAX: Duration = Duration::from_mins(1);
pub const REQUEST_CPU_DEFAULT: Duration = Duration::from_secs(2);
pub const REQUEST_TIME_MAX: Duration = Duration::from_mins(10);
pub const REQUEST_TIME_DEFAULT: Duration = Duration::from_secs(30);
pub const APP_CONCURRENCY_MAX: u32 = 500;
pub const APP_CONCURRENCY_DEFAULT: u32 = 64;
/// Requests that may wait for each place of an app's concurrency before the next is refused.
pub const WAITING_PER_PLACE_MAX: u32 = 4;
/// The clock that interrupts guests: one tick, while any of them computes for long. It then gives its core away after one, so
/// that others wait for that long at the most. A tick costs the box some 12 µs, and a guest that computes some 10.
pub const EPOCH_TICK: Duration = Duration::from_micros(500);
/// One tick while none does. Short requests are over before a tick would have come, and ticks are paid for all the same.
pub const EPOCH_TICK_AT_EASE: Duration = Duration::from_millis(2);
/// CPU time after which a request has computed for long.
pub const LONG_AFTER: Duration = Duration::from_millis(1);
/// Short ticks after the last one that did: a quarter of a second. So a guest's first turn, which may be a long one, is the
/// only such in that time.
pub const SHORT_TICKS: u32 = 500;
/// Ticks without any guest that runs, after which the clock stands still until one does.
pub const IDLE_TICKS: u32 = 200;
/// CPU time after which a request is a heavy one: of its tenant's requests on the core, the light ones go first.
pub const HEAVY_AFTER: Duration = Duration::from_millis(4);
/// A core that has worked for so long looks at its sockets before it goes on. To look costs it some 3 µs.
pub const LOOK_AFTER: Duration = Duration::from_micros(500);
/// A look that found so much news is followed by another before the core goes on, as the system tells of 1,024 sockets at a
/// time; so many looks at the most, which take about 2 ms.
pub const ARRIVALS_LOOK_AGAIN: usize = 256;
pub const LOOKS_IN_A_ROW_MAX: usize = 4;
/// Light tasks of one tenant that have their turns together, as long as they take less than [`LOOK_AFTER`] together.
pub const TURNS_AT_ONCE_MAX: usize = 32;
/// Connections that a core accepts in one turn, at some 10 µs each.
pub const ACCEPTS_PER_TURN_MAX: usize = 16;
/// What a guest may see of the time: fine enough for caches and logs, too coarse to time another tenant's code.
pub const GUEST_CLOCK_GRAIN: Duration = Duration::from_millis(1);
/// A tenant whose turns are so long lately, in the mean, is not waited for with an answer that is ready. To send it at once
/// costs up to 12 µs more, as it wakes a reader for itself.
pub const LONG_TURN: Duration = Duration::from_micros(100);
/// Elements of a guest's tables together. The largest that is known, CPython, has 10,000 or so.
pub const GUEST_TABLE_ELEMENTS_MAX: usize = 100_000;
pub const GUEST_STACK_BYTES_MAX: usize = 512 * KIB;
/// Requests that one instance answers where the manifest asks for reuse: making one costs less than a hundredth of that
/// many, and whatever a guest leaks ends.
pub const REUSE_REQUESTS_MAX: u32 = 1_000;
/// Instances of one app that wait on one core for a request. More at once are made when they are needed.
pub const REUSE_IDLE_PER_CORE_MAX: usize = 16;
/// Instances that wait on the whole box, a quarter of all: they must not keep others from being made.
pub const REUSE_IDLE_MAX: usize = INSTANCES_MAX as usize / 4;
/// How long an instance waits for a request before it is let go.
pub const REUSE_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes and pieces of a response that are read before its head is sent, while its guest writes without waiting. What
/// fits is sent whole, with its length.
pub const RESPONSE_AT_ONCE_BYTES_MAX: usize = 64 * KIB;
pub const RESPONSE_AT_ONCE_PIECES_MAX: usize = 64;
/// Instances of more memory than this are let go beside the core: giving back 128 MiB takes it some 10 ms, and this much
/// about a tick.
pub const LET_GO_ASIDE_BYTES: u64 = 16 << 20;
/// So many wait to be let go of. As each still counts as one that its tenant has, there are no more.
pub const GONE_WAITING_MAX: usize = INSTANCES_MAX as usize;
/// How often the node looks at the memory that it uses: a core that does nothing else takes some 100 MiB in that time.
pub const MEMORY_LOOK: Duration = Duration::from_millis(50);
/// A tenant's instances may have so many times as much memory together as is left to all: four fifths of it where there is
/// one such tenant, four ninths each where there are two, and a ninth is left.
pub const GUEST_MEMORY_OF_FREE_MAX: u64 = 4;
/// The share of the machine's memory that all instances may have together, in percent, unless the operator says more
/// or less: the node itself, its caches and the compile process need the rest.
pub const INSTANCES_MEMORY_PERCENT: u64 = 50;
/// The least that an operator may give to all instances.
pub const GUEST_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Memory of the node's own: caches, databases, logs, connections.
pub const NODE_MEMORY_BYTES: u64 = 256 << 20;
/// The most of the machine's memory that the node uses before it stops instances, in percent, however much was asked for.
pub const PROCESS_MEMORY_PERCENT_MAX: u64 = 80;
/// Core instances of one component. JavaScript has 4, Python about 30: each shared library is one, with its shims.
pub const INSTANCE_CORES_MAX: u32 = 100;
/// Memories of one component: one, and one more for each component composed into it.
pub const INSTANCE_MEMORIES_MAX: u32 = 8;
/// Tables of one component: one or two for each memory.
pub const INSTANCE_TABLES_MAX: u32 = 16;
/// Handles that an instance may hold at once: streams, fields, requests, buckets. Each stands for memory of the host's,
/// of which no guest's limit knows: 1,000 × `GUEST_FIELDS_BYTES_MAX` are 64 MiB. A guest needs a few for each
/// of its 16 requests that may be open.
pub const GUEST_RESOURCES_MAX: usize = 1_000;
/// Bytes that one host call may take out of a guest: the largest is a batch of values of `KV_VALUE_BYTES_MAX`,
/// of which 16 are enough.
pub const GUEST_CALL_BYTES_MAX: usize = 16 * MIB;
/// Bytes that a guest's `memory.fill`, `memory.copy` or `memory.init` moves between two looks for a tick: 64 KiB are 16
/// pages, which take some 20 µs where each has to be had from the kernel first.
pub const GUEST_BULK_PIECE_BYTES: usize = 64 * KIB;
/// Instructions of a function between two places where a guest can be interrupted. Where each third one touches a page that
/// has to be had from the kernel first, they take some 300 µs.
pub const GUEST_STRAIGHT_OPERATORS_MAX: usize = 1_024;
/// Memories of a component whose first content is mapped; those of a hundred more are copied.
pub const GUEST_CONTENTS_MAX: usize = 256;
/// Bytes that the first contents of a component may have for nothing, beside three times as many as they really have. An engine of
/// JavaScript has 3.6 MB in 8.5.
pub const GUEST_CONTENT_SLACK_BYTES: u64 = MIB as u64;
/// Bytes of one piece of a body that a guest writes, and pieces that wait until they are sent: 1 MiB at the
/// most. A response that fits needs no task of its own.
pub const GUEST_BODY_PIECE_BYTES_MAX: usize = 64 * KIB;
pub const GUEST_BODY_PIECES_WAITING_MAX: usize = 16;
/// Bytes of values that an instance's compare-and-swaps may remember on the host's side: sixteen of the largest.
pub const GUEST_SWAP_BYTES_MAX: usize = 16 * KV_VALUE_BYTES_MAX;
/// Bytes of one set of header fields that a guest makes, which the host holds: what a request's may have, and as much
/// again for their structure.
pub const GUEST_FIELDS_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX;
/// Random bytes that a guest may ask for at once.
pub const GUEST_RANDOM_BYTES_MAX: u64 = MIB as u64;
/// Lines of the call stack that the log gets with a trap.
pub const TRAP_FRAMES_MAX: usize = 16;
/// Outgoing requests that one request may have open.
pub const OUTBOUND_AT_ONCE_MAX: usize = 16;
pub const OUTBOUND_CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Compiled components kept mapped; the least recently used is dropped for the next, and mapped again in 1 ms
/// (Rust) to 20 ms (JavaScript) when it's asked for. Each takes two descriptors and 4 of the 65,530 mappings that
/// Linux gives a process by default: 16,384, besides the pool's own 4,000 and a few for each living instance.
pub const PROGRAMS_LOADED_MAX: usize = 4_096;

// ---- the front end ----

/// Connections one core may hold open.
/// 1 GiB a core for sockets ÷ (16 KiB read + 16 KiB write buffer + 4 KiB of state) = 29,127; rounded down to a power of two.
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;
/// Of the idle connections of a full core this part, the longest idle, leaves at once for newcomers: each look at all
/// 16,384 of them makes 1,024 places.
pub const CONNECTIONS_EVICTED_SHARE: usize = 16;
/// Connections one client address (IPv6: one /64) may hold open on the box, unless `firm up --connections-per-client`
/// says otherwise. A browser opens six a site over HTTP/1.1 and one over HTTP/2: 170 people behind one address. Sixteen
/// such clients fill a core.
pub const CONNECTIONS_PER_CLIENT_DEFAULT: u32 = 1_024;
/// How often the log tells of refused connections.
pub const REFUSALS_TOLD_EVERY: Duration = Duration::from_mins(1);
/// Bytes of a request's line and headers; beyond is 431. nginx allows 4 × 8 KiB.
pub const HEADER_BYTES_MAX: usize = 32 * KIB;
/// Header fields of a request; beyond is 431.
pub const HEADER_FIELDS_MAX: usize = 100;
/// Bytes of a request's path and query.
pub const URL_BYTES_MAX: usize = 8 * KIB;
/// Bytes of a request body to an app.
pub const REQUEST_BODY_BYTES_MAX: u64 = 100 << 20;
/// Streams of one HTTP/2 connection at once.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Bytes of a body that one stream, and that all streams of an HTTP/2 connection, may send before the app has taken
/// them. Over 50 ms of distance that is 5 and 10 MB/s.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Bytes of an answer that one stream may have ready before they are sent: 128 streams × 64 KiB = 8 MiB a connection.
pub const STREAM_SEND_BYTES: usize = 64 * KIB;
/// Bytes that the kernel may hold for a connection before they are sent the first time.
pub const KERNEL_UNSENT_BYTES: u32 = 128 << 10;
/// Requests of a connection from which on it is cut when more than half of them were taken back before there was an
/// answer (CVE-2023-44487, CVE-2025-8671). Envoy draws the same line.
pub const REQUESTS_CANCELLED_MIN: u64 = 500;
/// From accept to a finished TLS handshake.
pub const TLS_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// From the first byte of a request to the last of its headers; for a connection's first request, from its accept or
/// its TLS handshake.
pub const HEADERS_TIME_MAX: Duration = Duration::from_secs(15);
/// A connection without a request.
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(75);
/// Bytes a second at which a visitor must send the body that an app waits for, and take the answer that lies ready,
/// measured over the time in `TRANSFER_GRACE`. Both are Apache's figures for bodies.
pub const TRANSFER_BYTES_PER_SECOND_MIN: u64 = 500;
/// What lies ready in the streams of a connection of HTTP/2 leaves them at a rate at which all of it takes no longer.
pub const TRANSFER_OF_STREAMS_TIME_MAX: Duration = Duration::from_hours(1);
/// What a visitor gets before that is asked, and each time anew: a tunnel takes less.
pub const TRANSFER_GRACE: Duration = Duration::from_secs(20);
/// Bytes taken off a connection that the node closes, and how long that may take, so that its last answer isn't
/// overtaken by a reset.
pub const LINGER_BYTES_MAX: usize = 256 * KIB;
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// A visitor whose machine is gone is noticed after this silence and so many probes: 75 + 4 × 15 s.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(75);
pub const PEER_SILENCE_PROBE_EVERY: Duration = Duration::from_secs(15);
pub const PEER_SILENCE_PROBES: u32 = 4;
/// What a draining node gives requests in flight.
pub const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(30);
/// Certificates made for local names and kept; the least recently used is made again.
pub const CERTIFICATES_CACHED_MAX: usize = 4_096;
/// Small static files that one core keeps in memory.
pub const STATIC_CACHE_BYTES_PER_CORE: usize = 64 * MIB;
/// The largest file that this cache takes.
pub const STATIC_CACHED_FILE_BYTES_MAX: usize = 256 * KIB;
/// Bytes of larger files that one core has in memory while they are sent: 64 chunks of the largest size, 256 of the mean.
pub const CHUNKS_LENT_BYTES_PER_CORE: usize = 256 * MIB;
/// What a request waits for room among them: slow visitors are cut after 20 s, and leave room.
pub const CHUNK_WAIT_MAX: Duration = Duration::from_secs(25);
/// Release indexes that one core keeps parsed, and bytes of their JSON together; parsed they take about three times as
/// much: 200 MiB a core. Without that bound 1,024 of the largest would take 12 GiB.
pub const INDEXES_CACHED_PER_CORE_MAX: usize = 1_024;
pub const INDEX_BYTES_CACHED_PER_CORE_MAX: usize = 64 * MIB;
/// Indexes that one core reads at once: 2 × 16 MiB as JSON and parsed. Others wait their turn, and mostly find theirs.
pub const INDEXES_READ_AT_ONCE_PER_CORE: usize = 2;
/// Clients that the throttles of a box remember at once, 100 bytes each; the one that was seen the longest time ago
/// makes room. Throttles that count everybody together aren't among them.
pub const THROTTLE_KEYS_MAX: usize = 65_536;

// ---- what is seen of requests ----

/// Apps' stages that have figures of their own at once, and those of one tenant among them; what has traffic beyond
/// that is counted together. A stage has some 25 series: 2,000 × 25 = 50,000, what one Prometheus takes with ease.
pub const METRIC_SITES_MAX: usize = 2_000;
pub const METRIC_SITES_PER_TENANT_MAX: usize = 200;
/// Bytes of a `tracestate` that an app gets; W3C Trace Context, 3.3.1.5, asks for 512. And its members, 3.3.1.1.
pub const TRACE_STATE_BYTES_MAX: usize = 512;
pub const TRACE_STATE_MEMBERS_MAX: usize = 32;
/// Spans that wait for the collector: 300 B each, 1.2 MB. More are counted and dropped.
pub const SPANS_WAITING_MAX: usize = 4_096;
/// Spans that one message to the collector carries, and the longest that the first of them waits for company.
pub const SPANS_PER_EXPORT_MAX: usize = 512;
pub const SPANS_WAIT_MAX: Duration = Duration::from_secs(1);
/// What a collector gets to take a message, and how often it is tried. The second time comes a second later.
pub const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);
pub const EXPORT_ATTEMPTS_MAX: u32 = 3;
/// What the spans that still wait get when the node goes down.
pub const EXPORT_CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes of a collector's answer that are read: it says next to nothing.
pub const EXPORT_ANSWER_BYTES_MAX: usize = 64 * KIB;

// ---- the management API ----

/// Bytes of a JSON body: of a release's index, or of a question for chunks.
pub const API_BODY_BYTES_MAX: usize = 16 * MIB;
/// Bytes of any other. It is read on a core, which takes some milliseconds.
pub const API_SMALL_BODY_BYTES_MAX: usize = MIB;
/// API requests that run at once on a box: 256 × 16 MiB of bodies are 4 GiB at the very worst.
pub const API_REQUESTS_AT_ONCE: usize = 256;
/// API requests of one tenant's tokens among those: sixteen pushes that send `UPLOADS_AT_ONCE` chunks.
pub const API_REQUESTS_PER_TENANT_AT_ONCE: usize = 16 * UPLOADS_AT_ONCE;
/// From the head of an API request to the end of its body: 16 MiB over half a megabit a second.
pub const API_BODY_TIME_MAX: Duration = Duration::from_mins(5);
/// Bytes of a refused request's body that are taken off the wire all the same, and how long that may take. Some HTTP/2
/// clients, curl 7.88 among them, lose the answer of a stream that is reset while they send; what they send before they
/// hear of the answer is HTTP/2's first window of 65,535 bytes.
pub const REFUSED_BODY_BYTES_MAX: usize = 64 * KIB;
pub const REFUSED_BODY_TIME_MAX: Duration = Duration::from_secs(1);
/// Digests of one question about missing chunks.
pub const MISSING_DIGESTS_MAX: usize = 10_000;
/// Life of a share link.
pub const SHARE_TIME_DEFAULT: Duration = Duration::from_hours(24);
pub const SHARE_TIME_MAX: Duration = Duration::from_hours(24 * 30);

// ---- the command line ----

/// What one box among several gets of that before the next is tried.
pub const CLIENT_TRY_TIME_MAX: Duration = Duration::from_secs(2);
/// Addresses of other boxes that a context keeps.
pub const CONTEXT_ADDRESSES_MAX: usize = 4;
/// From the first SYN to a finished TLS handshake with the API.
pub const CLIENT_CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// What the API gets to answer anything but a push. Every answer is one durable append at the most; a minute
/// forgives a slow disk and a slow line.
pub const CLIENT_ANSWER_TIME_MAX: Duration = Duration::from_mins(1);
/// What the API gets to answer a push: its turn at the compiler, a compilation of each component, the append.
pub const PUSH_ANSWER_TIME_MAX: Duration = Duration::from_mins(15);
/// Chunks that one push sends at once: 4 × 4 MiB are read, in flight and enough to fill a line of 100 ms.
pub const UPLOADS_AT_ONCE: usize = 4;

// ---- the lab ----

/// Boxes of a lab: a segment is a /24, of which the machine, the router and the broadcast have an address each.
pub const LAB_BOXES_MAX: u8 = 250;
/// The second number of a lab's addresses: the first that is free, so this is how many labs one machine may have, 51.
pub const LAB_NET_FIRST: u8 = 77;
pub const LAB_NET_LAST: u8 = 127;
/// How long a lab waits for another to choose its net: that takes 20 ms, for as many labs as may begin at once.
pub const LAB_LOCK_TIME_MAX: Duration = Duration::from_secs(10);
/// Until all boxes listen: one takes 0.1 s, 250 of them on two busy cores 25.
pub const LAB_START_TIME_MAX: Duration = Duration::from_mins(1);
/// What a box may take to end in order where its disk is kept, before it is killed.
pub const LAB_END_TIME_MAX: Duration = Duration::from_secs(10);
/// Orders that a keeper holds: people and tests give a few at once.
pub const LAB_ORDERS_MAX: usize = 64;
/// Bytes of one order: 250 boxes by their names of 40 bytes, twice.
pub const LAB_ORDER_BYTES_MAX: u64 = 64 << 10;
/// What an order's line may take to come, and its answer's to go: both are on the same machine.
pub const LAB_ORDER_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer: 250 boxes × 700, and 62,500 cuts × 26.
pub const LAB_ANSWER_BYTES_MAX: u64 = 4 << 20;
/// What an order may take: until boxes listen, behind another order that waits for the same.
pub const LAB_ANSWER_TIME_MAX: Duration = Duration::from_mins(3);
/// What the relay of slow cables may take to open them.
pub const LAB_RELAY_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a frame may be held up, and an interface be down. A delay beyond it is a cut.
pub const LAB_DELAY_TIME_MAX: Duration = Duration::from_secs(10);
/// Frames that one direction of a slow cable holds: 50 ms of 1 Gbit/s are 4,130 of 1,514 bytes. 6 MiB.
pub const LAB_FRAMES_HELD_MAX: usize = 4_096;
