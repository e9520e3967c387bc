//! The words that boxes are named by. Their order is part of every name: a change would rename boxes.

/// How a box is.
#[rustfmt::skip]
pub(super) const ADJECTIVES: [&str; 256] = [
    "able", "agile", "airy", "alert", "alpine", "amber", "ample", "amused", "apt", "aqua", "arctic", "ardent",
    "astral", "august", "autumn", "avid", "azure", "balmy", "basic", "beige", "bold", "bonny", "brave",
    "breezy", "bright", "brisk", "bronze", "burly", "busy", "calm", "candid", "canny", "casual", "chilly",
    "civil", "clean", "clear", "clever", "cobalt", "cool", "copper", "coral", "cosmic", "cosy", "crafty",
    "cream", "crisp", "curly", "cyan", "dainty", "dapper", "daring", "deft", "dewy", "direct", "dotted", "dry",
    "dusky", "dusty", "eager", "early", "easy", "ebony", "elated", "equal", "even", "exact", "exotic", "fabled",
    "fair", "famous", "fancy", "fast", "fern", "fiery", "fine", "firm", "fleet", "floral", "fluffy", "fond",
    "frank", "free", "fresh", "frosty", "frugal", "full", "fuzzy", "gentle", "giddy", "gifted", "gilded",
    "ginger", "glad", "glossy", "golden", "grand", "grassy", "green", "grey", "groovy", "happy", "hardy",
    "hazel", "hearty", "hidden", "high", "hollow", "honest", "humble", "humid", "icy", "ideal", "indigo",
    "inky", "ivory", "jade", "jaunty", "jolly", "jovial", "joyful", "keen", "kind", "lavish", "leafy", "level",
    "light", "lilac", "limber", "lively", "lofty", "loyal", "lucid", "lucky", "lunar", "magic", "major",
    "marble", "maroon", "mellow", "merry", "mighty", "mild", "minty", "misty", "modest", "mossy", "native",
    "neat", "nimble", "noble", "novel", "nutty", "oaken", "olive", "opal", "open", "orange", "peachy", "pearly",
    "peppy", "perky", "placid", "plucky", "plum", "polar", "polite", "posh", "primal", "prime", "prompt",
    "proud", "pure", "purple", "quaint", "quick", "quiet", "rainy", "rapid", "rare", "ready", "regal", "rosy",
    "round", "royal", "ruby", "rugged", "rural", "russet", "rustic", "sable", "sage", "salty", "sandy", "savvy",
    "serene", "sharp", "shiny", "silent", "silken", "silver", "simple", "sleek", "slick", "smart", "smooth",
    "snappy", "snowy", "snug", "soft", "solar", "solid", "sonic", "spicy", "spry", "stable", "starry", "steady",
    "steel", "still", "stoic", "stormy", "sturdy", "sunny", "sure", "sweet", "swift", "tacit", "tall", "tame",
    "tangy", "tawny", "teal", "tepid", "tidy", "tiny", "topaz", "trim", "true", "twin", "umber", "urban",
    "vast", "vital", "vivid", "warm", "wavy", "wild", "windy", "wise", "witty", "woody", "woven", "zany", "zen",
    "zesty",
];

/// What it is.
#[rustfmt::skip]
pub(super) const ANIMALS: [&str; 256] = [
    "adder", "alpaca", "anchovy", "anole", "ant", "auk", "avocet", "axolotl", "baboon", "badger", "barbet",
    "beagle", "bear", "beaver", "bee", "beetle", "bison", "bittern", "boa", "boar", "bobcat", "bongo", "bonito",
    "budgie", "buffalo", "bulbul", "bunting", "burbot", "buzzard", "caiman", "camel", "canary", "caracal",
    "caribou", "carp", "cat", "catfish", "cavy", "chamois", "cheetah", "chicken", "chough", "cicada", "civet",
    "clam", "cobra", "cod", "collie", "condor", "coot", "corgi", "cougar", "coyote", "crab", "crane", "cricket",
    "crow", "cuckoo", "curlew", "dace", "deer", "dhole", "dingo", "dipper", "dodo", "dolphin", "donkey", "dove",
    "drake", "drongo", "duck", "dugong", "dunlin", "dunnock", "eagle", "echidna", "eel", "egret", "eider",
    "eland", "elk", "emu", "ermine", "falcon", "ferret", "finch", "firefly", "fossa", "fox", "frog", "fulmar",
    "gadwall", "gannet", "gaur", "gazelle", "gecko", "genet", "gerbil", "gharial", "gibbon", "gnu", "goat",
    "godwit", "goose", "gopher", "goshawk", "grackle", "grebe", "grouse", "guanaco", "gull", "guppy", "haddock",
    "hake", "halibut", "hamster", "hare", "harrier", "hawk", "heron", "herring", "hippo", "hoatzin", "hoopoe",
    "hornet", "horse", "hound", "hyrax", "ibex", "ibis", "iguana", "impala", "jackal", "jackdaw", "jaguar",
    "jay", "kea", "kestrel", "kite", "kiwi", "koala", "koi", "krill", "kudu", "lamb", "lapwing", "lark",
    "lemur", "limpet", "linnet", "lion", "lizard", "llama", "loon", "loris", "lynx", "macaw", "magpie",
    "mantis", "marlin", "marmot", "marten", "merlin", "mink", "minnow", "mole", "monkey", "moose", "moth",
    "mouse", "mule", "mullet", "newt", "numbat", "ocelot", "okapi", "orca", "oriole", "oryx", "osprey", "otter",
    "owl", "ox", "oyster", "panda", "parrot", "pigeon", "pika", "pike", "plover", "pony", "poodle", "possum",
    "prawn", "puffin", "puma", "python", "quail", "quokka", "quoll", "rabbit", "ram", "raven", "rhino", "robin",
    "rook", "ruff", "salmon", "seal", "serval", "shark", "sheep", "shrew", "shrike", "shrimp", "siskin",
    "skink", "skua", "sloth", "snail", "snipe", "spider", "squid", "stoat", "stork", "swan", "takin", "tapir",
    "tarpon", "tench", "tern", "thrush", "tiger", "toad", "toucan", "trout", "tuna", "turbot", "turkey",
    "turtle", "vicuna", "viper", "vole", "walrus", "wasp", "weasel", "weaver", "whale", "whelk", "wigeon",
    "wolf", "wombat", "wren", "yak", "zebra", "zebu",
];
