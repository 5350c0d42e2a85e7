// Actions of the audit log as people say them.
const VERBS: Record<string, string> = {
	create: 'made',
	delete: 'deleted',
	destroy: 'destroyed',
	update: 'changed',
	remove: 'removed',
	add: 'added',
	rename: 'renamed',
	pause: 'paused',
	resume: 'resumed',
	register: 'registered',
	drain: 'drained',
	undrain: 'opened again',
	revoke: 'revoked',
	login: 'logged in',
	logout: 'logged out',
	signup: 'signed up',
	leave: 'left',
	invite: 'invited',
	accept: 'accepted',
	build: 'built',
	fork: 'forked',
	cancel: 'cancelled',
	tag: 'tagged',
	untag: 'untagged',
	replace: 'replaced',
	test: 'tested',
	disable: 'given up',
	approve: 'let in',
	deny: 'turned away'
};
/** Where a noun and a verb make no sentence. */
const WHOLE: Record<string, string> = {
	'team.byoc': 'Own hosts switched',
	'team.quotas': 'Limits of a team set',
	'user.active': 'User enabled or disabled',
	'user.admin': 'Platform admin made or unmade',
	'user.switch_team': 'Team switched',
	'session.revoke_others': 'Other sessions ended',
	'user.password_change': 'Password changed',
	'user.password_reset': 'Password set anew',
	'user.password_reset_link': 'Password link made',
	'user.password_reset_request': 'Password link asked for',
	'user.link': 'Sign-in elsewhere linked',
	'host.reenrol': 'Host enrolled again',
	'host.renew_registration': 'Host token renewed',
	'host.refresh_token_reused': 'Old host token was used',
	'sandbox.timeout': 'Idle time of a sandbox set',
	'sandbox.network': 'Network of a sandbox changed',
	'sandbox.move': 'Sandbox moved to another host',
	'sandbox.destroy_orphan': 'Forgotten sandbox destroyed',
	'webhook.secret': 'Webhook secret renewed'
};

/** `sandbox.create` is `Sandbox made`. */
export function actionText(action: string): string {
	const whole = WHOLE[action];
	if (whole) return whole;
	const [thing = action, verb = ''] = action.split('.');
	const noun = thing.replaceAll('_', ' ').replace(/^api key/, 'API key');
	const text = `${noun} ${VERBS[verb] ?? verb.replaceAll('_', ' ')}`.trim();
	return text.charAt(0).toUpperCase() + text.slice(1);
}
