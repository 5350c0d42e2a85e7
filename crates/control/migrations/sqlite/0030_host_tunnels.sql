-- Hosts behind NAT keep a connection open to one replica of control; the others find that replica here.
CREATE TABLE host_tunnels (
    host_id TEXT PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    connection TEXT NOT NULL,                -- names this one connection, so that an older one removes only itself
    replica TEXT NOT NULL,
    advertise TEXT,                          -- host:port at which other replicas reach that replica
    opened_at BIGINT NOT NULL
);
