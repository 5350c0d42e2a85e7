-- What new sandboxes of a team may reach when nobody says; NULL: everything that is open to all.
ALTER TABLE teams ADD COLUMN network JSONB;
