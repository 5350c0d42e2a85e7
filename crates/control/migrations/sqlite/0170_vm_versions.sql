-- What virtual machines run on: of a host, by its last heartbeat; of a layer, if a machine has left it.
ALTER TABLE hosts ADD COLUMN vm_version TEXT;
ALTER TABLE layers ADD COLUMN vm_version TEXT;
