"""The tables of what people do together: discussions, webhooks, Spaces, jobs, and tokens with scopes.

One step of `db.MIGRATIONS`; the tables of repositories and accounts are in `db` itself.
"""

COLLABORATION = """
ALTER TABLE tokens ADD COLUMN name TEXT NOT NULL DEFAULT 'local';
ALTER TABLE tokens ADD COLUMN fine_grained TEXT;
ALTER TABLE repos ADD COLUMN discussions INTEGER NOT NULL DEFAULT 1;
ALTER TABLE repo_tags ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
CREATE TABLE threads (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, num INTEGER NOT NULL, title TEXT NOT NULL,
    status TEXT NOT NULL, pull INTEGER NOT NULL, author INTEGER NOT NULL REFERENCES accounts,
    created INTEGER NOT NULL, target TEXT, merged TEXT, UNIQUE (repo, num));
CREATE TABLE thread_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    thread INTEGER NOT NULL REFERENCES threads ON DELETE CASCADE, type TEXT NOT NULL,
    author INTEGER NOT NULL REFERENCES accounts, created INTEGER NOT NULL, data TEXT NOT NULL);
CREATE INDEX events_by_thread ON thread_events (thread);
CREATE TABLE webhooks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, url TEXT, job TEXT, watched TEXT NOT NULL,
    domains TEXT NOT NULL, secret TEXT, disabled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    webhook INTEGER NOT NULL REFERENCES webhooks ON DELETE CASCADE, payload TEXT NOT NULL, status TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL, created INTEGER NOT NULL, finished INTEGER,
    answer INTEGER, error TEXT);
CREATE INDEX deliveries_due ON deliveries (due) WHERE status='pending';
CREATE INDEX deliveries_by_webhook ON deliveries (webhook);
CREATE TABLE spaces (
    repo INTEGER PRIMARY KEY REFERENCES repos ON DELETE CASCADE, stage TEXT, hardware TEXT, sleep_s INTEGER,
    storage TEXT, dev_mode INTEGER NOT NULL DEFAULT 0, volumes TEXT);
CREATE TABLE space_values (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT,
    description TEXT, updated INTEGER NOT NULL, PRIMARY KEY (repo, kind, key)) WITHOUT ROWID;
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, spec TEXT NOT NULL, stage TEXT NOT NULL,
    created INTEGER NOT NULL, finished INTEGER, initiator TEXT NOT NULL);
CREATE INDEX jobs_by_account ON jobs (account);
CREATE TABLE schedules (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, spec TEXT NOT NULL, schedule TEXT NOT NULL,
    suspended INTEGER NOT NULL DEFAULT 0, concurrency INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL,
    last_job TEXT)
"""

# Who asked for access with which words, who made a repository, and what a job has to say: another step.
PARTICULARS = """
ALTER TABLE access ADD COLUMN hex TEXT;
ALTER TABLE access ADD COLUMN reviewed INTEGER;
ALTER TABLE access ADD COLUMN fields TEXT;
ALTER TABLE access ADD COLUMN reason TEXT;
UPDATE access SET hex=lower(hex(randomblob(12)));
ALTER TABLE repos ADD COLUMN creator INTEGER;
ALTER TABLE jobs ADD COLUMN message TEXT
"""

# Large files that a repository's history names and that were removed from it for good: another step.
ERASED = """
CREATE TABLE erased (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, sha256 TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (repo, sha256)) WITHOUT ROWID
"""

# What people are called and what they like, and organisations that keep new repositories private: another step.
PEOPLE = """
ALTER TABLE accounts ADD COLUMN fullname TEXT;
ALTER TABLE accounts ADD COLUMN private_default INTEGER NOT NULL DEFAULT 0;
CREATE TABLE likes (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    user INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, at INTEGER NOT NULL,
    PRIMARY KEY (repo, user)) WITHOUT ROWID;
CREATE INDEX likes_by_user ON likes (user)
"""

# Collections of repositories and of other collections: another step.
COLLECTIONS = """
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    owner INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE, title TEXT NOT NULL, description TEXT,
    private INTEGER NOT NULL, theme TEXT NOT NULL, position INTEGER NOT NULL, updated INTEGER NOT NULL);
CREATE INDEX collections_by_owner ON collections (owner);
CREATE TABLE collection_items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hex TEXT NOT NULL UNIQUE,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    repo INTEGER REFERENCES repos ON DELETE CASCADE, nested INTEGER REFERENCES collections ON DELETE CASCADE,
    note TEXT, position INTEGER NOT NULL);
CREATE INDEX items_by_collection ON collection_items (collection);
CREATE INDEX items_by_repo ON collection_items (repo)
"""
