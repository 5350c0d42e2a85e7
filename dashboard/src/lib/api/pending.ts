// Routes that the dashboard is written against and that main doesn't have yet, and their shapes.
import type { Role } from './types';

export type PendingRoute =
	| 'GET /v1/usage'
	| 'GET /v1/snapshots'
	| 'POST /v1/snapshots'
	| 'DELETE /v1/snapshots/{name}'
	| 'POST /v1/sandboxes/{id}/fork'
	| 'GET /v1/teams/{id}/invitations'
	| 'POST /v1/teams/{id}/invitations'
	| 'DELETE /v1/teams/{id}/invitations/{invitation}'
	| 'GET /v1/invitations/{token}'
	| 'POST /v1/invitations/{token}/accept'
	| 'POST /v1/auth/password/reset'
	| 'POST /v1/auth/password/reset/confirm'
	| 'GET /v1/auth/device'
	| 'POST /v1/auth/device/decision';

export interface Allowance {
	used: number;
	limit?: number | null;
}
export interface Usage {
	days: {
		date: string;
		sandboxes: number;
		sandbox_seconds: number;
		vcpu_seconds: number;
		memory_mb_seconds: number;
		disk_mb_seconds: number;
	}[];
	quotas: { sandboxes: Allowance; vcpus: Allowance; memory_mb: Allowance; disk_mb: Allowance };
}
export interface Snapshot {
	id: string;
	name: string;
	kind: string;
	vcpus: number;
	memory_mb: number;
	disk_mb: number;
	size_bytes: number;
	stored: boolean;
	created_at: string;
	platform: boolean;
}
export interface Invitation {
	id: string;
	email: string;
	role: Role;
	created_at: string;
	expires_at: string;
	mailed?: boolean | null;
	url?: string | null;
}
export interface InvitationDetail {
	team_id: string;
	team_name: string;
	email: string;
	role: Role;
	expires_at: string;
	has_account: boolean;
}
export interface DeviceLoginDetail {
	user_code: string;
	client_name: string;
	address?: string | null;
	created_at: string;
	expires_at: string;
}
export interface ForkResponse {
	kept: string;
	items: { sandbox?: { id: string } | null; error?: { code: string; message: string } | null }[];
}
