"""Every text of the report page, in English and beside it in Russian.

`{n}` is a placeholder, `{n|row|rows}` the form of a noun that goes with n: in Russian three, as one, few and many.
"""

from collections.abc import Mapping

# key: (English, Russian)
TEXTS: Mapping[str, tuple[str, str]] = {
    # Spans of time.
    "span_ms": ("{n} ms", "{n} мс"),
    "span_s": ("{n} s", "{n} с"),
    "span_min": ("{n} min", "{n} мин"),
    "span_h": ("{n} h", "{n} ч"),
    "span_d": ("{n} days", "{n} дн."),
    # Channels and what is held of them.
    "channel_Sms": ("SMS", "SMS"),
    "channel_Email": ("E-mail", "Эл. почта"),
    "channel_Push": ("Push", "Push"),
    "channel_EmailOnlineCheque": ("E-mail receipts", "Чеки на эл. почту"),
    "nothing": ("not known", "не известно"),
    "denied": ("denied", "запрещено"),
    "allowed": ("allowed", "разрешено"),
    # What becomes of rows and clients.
    "rows": ("rows", "строки"),
    "clients": ("clients", "клиенты"),
    "duplicates": ("repeated rows", "повторные строки"),
    "rejects": ("unreadable rows", "нечитаемые строки"),
    "planned": ("to be sent", "к отправке"),
    "unchanged": ("unchanged", "без изменений"),
    "waiting": ("next try later", "повтор позже"),
    "held": ("held", "задержано"),
    "blocked": ("stopped by opt-out", "остановлено отзывом согласия"),
    "forgotten": ("erased", "удалены ранее"),
    "planned_unstated": ("not in the export", "нет в выгрузке"),
    "delivered": ("delivered", "доставлено"),
    "refused": ("platform said no", "платформа отказала"),
    "exhausted": ("no sure answer", "нет надёжного ответа"),
    "deferred": ("not sent yet", "ещё не отправлено"),
    # In the pictures.
    "flow_unread": ("{n} of them only in unreadable rows", "из них {n} – только в нечитаемых строках"),
    "flow_owed": ("{n} of them owed by opt-out or from before", "из них {n} – по отзывам и из прошлых запусков"),
    "plot_flow": ("What became of the rows", "Что стало со строками"),
    "plot_transitions": ("What is sent, channel by channel", "Что отправляется по каналам"),
    "plot_was": ("was: {was}", "было: {was}"),
    "plot_ages": ("Opt-outs not yet acknowledged, by age", "Неподтверждённые отзывы согласия по возрасту"),
    "plot_target": ("target {span}", "цель {span}"),
    "plot_limit": ("limit {span}", "предел {span}"),
    "plot_throughput": ("How sending went, over {span}", "Ход отправки за {span}"),
    "plot_rate": ("Rows a second", "Строк в секунду"),
    "plot_round_trip": ("Round trip", "Время ответа"),
    "plot_in_flight": ("In flight", "В пути"),
    "plot_limit_of": ("Limit", "Предел"),
    "plot_most": ("{name} max {most}", "{name}: макс. {most}"),
    "plot_at_most": ("max {most}", "макс. {most}"),
    "plot_trend": ("How the last runs went", "Как прошли последние запуски"),
    "plot_duration": ("duration", "длительность"),
    "plot_undelivered": ("not delivered", "не доставлено"),
    "plot_last_and_most": ("{name}: last {last}, max {most}", "{name}: последний раз {last}, макс. {most}"),
    # The page.
    "title": ("Consent: {kind} {run}", "Согласия: {kind} {run}"),
    "title_index": ("Consent: all runs", "Согласия: все запуски"),
    "kind_run": ("run", "запуск"),
    "kind_init": ("first state", "первое состояние"),
    "kind_apply": ("planned run", "запуск по плану"),
    "kind_backfill": ("backfill", "повторная отправка"),
    "kind_undo": ("undo", "отмена"),
    "kind_drain": ("drain", "отправка долгов"),
    "kind_opt_out": ("opt-outs", "отзывы согласия"),
    "kind_forget": ("erasure", "удаление клиентов"),
    "fine": ("Fine", "Всё хорошо"),
    "look": ("Look", "Посмотрите"),
    "act": ("Act", "Нужны действия"),
    "fine_note": ("Nothing to do.", "Делать ничего не нужно."),
    "next": ("What to do next", "Что делать дальше"),
    "why": ("What the run said", "Что сообщил запуск (на английском)"),
    "about": ("{kind} {run}, {started} to {ended}, at {target}", "{kind} {run}, с {started} до {ended}, {target}"),
    "made_by": (
        "consent-sync {version}. No client is named here; the lists beside this page name them.",
        "consent-sync {version}. Клиенты здесь не названы: они перечислены в файлах рядом со страницей.",
    ),
    "exit": ("Exit code {code}", "Код завершения {code}"),
    "more": ("… and {n} more", "… и ещё {n}"),
    "what": ("What", "Что"),
    "count": ("Number", "Количество"),
    "value": ("Value", "Значение"),
    "total": ("in all", "всего"),
    "all_channels": ("all", "все"),
    # The headline: parts of one sentence, of which the first gets a capital.
    "stopped_2": (
        "stopped, because a setting or the command is wrong",
        "остановлено из-за ошибки в настройках или в команде",
    ),
    "stopped_3": ("the export could not be used", "выгрузку не удалось использовать"),
    "stopped_3_same": ("there was no new export", "новой выгрузки не было"),
    "stopped_4": (
        "stopped, because the saved state or a folder of the run cannot be used as it is",
        "остановлено: состояние или одну из папок запуска нельзя использовать как есть",
    ),
    "stopped_5": (
        "stopped, because the platform could not be reached or did not answer as it should",
        "остановлено: платформа недоступна или отвечает не так, как должна",
    ),
    "stopped_70": ("stopped by a bug in consent-sync", "остановлено из-за ошибки в самой программе consent-sync"),
    "stopped_75": ("another run was under way, or sending is paused", "шёл другой запуск, или отправка приостановлена"),
    "stopped_130": ("interrupted by hand", "прервано вручную"),
    "stopped_143": ("ended from outside before it was done", "завершено извне раньше времени"),
    "said_delivered": (
        "{n} of {of} {of|change|changes} delivered",
        "доставлено {n} из {of} {of|изменения|изменений|изменений}",
    ),
    "said_backfill": (
        "{n} of {of} {of|change|changes} sent again and delivered",
        "повторно доставлено {n} из {of} {of|изменения|изменений|изменений}",
    ),
    "said_undo": (
        "{n} of {of} {of|change|changes} taken back",
        "отменено {n} из {of} {of|изменения|изменений|изменений}",
    ),
    "said_drain": (
        "{n} of {of} {of|denial|denials} that we owed delivered",
        "доставлено {n} из {of} {of|запрета, который|запретов, которые|запретов, которые} мы должны были передать",
    ),
    "said_opt_out": (
        "{n} of {of} {of|opt-out|opt-outs} delivered",
        "передано {n} из {of} {of|отзыва|отзывов|отзывов} согласия",
    ),
    "said_forget": (
        "{n} of {of} {of|denial|denials} delivered before clients are erased",
        "перед удалением клиентов доставлено {n} из {of} {of|запрета|запретов|запретов}",
    ),
    "said_nothing_sent": ("nothing was sent", "ничего не отправлено"),
    "said_nothing_changed": (
        "nothing was sent, because nothing had changed",
        "ничего не отправлено, потому что ничего не изменилось",
    ),
    "said_same_since": ("the export has been the same since {at}", "выгрузка не менялась с {at}"),
    "said_made": (
        "the first state was made of {n} {n|client|clients}",
        "создано первое состояние: {n} {n|клиент|клиента|клиентов}",
    ),
    "said_made_due": (
        "the next run sends {denials} of them a denial and {grants} an “allowed”",
        "следующий запуск передаст запретов: {denials}, разрешений: {grants}",
    ),
    "said_refused": ("the platform said no to {n}", "платформа отклонила {n}"),
    "said_exhausted": ("{n} got no sure answer", "без надёжного ответа: {n}"),
    "said_deferred": ("{n} not sent yet", "ещё не отправлено: {n}"),
    "said_rejects": (
        "{n} {n|row|rows} of the export could not be read",
        "не удалось прочитать {n} {n|строку|строки|строк} выгрузки",
    ),
    "said_held": (
        "{n} {n|client has|clients have} something held",
        "у {n} {n|клиента|клиентов|клиентов} что-то задержано",
    ),
    "said_held_grants": (
        "grants of {n} {n|client|clients} wait for approval",
        "разрешения {n} {n|клиента|клиентов|клиентов} ждут одобрения",
    ),
    "said_held_revocations": (
        "revocations of {n} {n|client|clients} wait for approval",
        "отзывы {n} {n|клиента|клиентов|клиентов} в выгрузке ждут одобрения",
    ),
    "said_no_grants": ("nothing may be granted by this export", "по этой выгрузке разрешения не передаются"),
    "said_past_limit": (
        "{n} {n|opt-out is past its limit|opt-outs are past their limit}",
        "{n} {n|отзыв согласия просрочен|отзыва согласия просрочены|отзывов согласия просрочены}",
    ),
    "said_open": (
        "{n} {n|client is|clients are} owed a denial that is not acknowledged yet",
        "ещё не {n|подтверждён|подтверждены|подтверждены} {n} {n|запрет|запрета|запретов}",
    ),
    "said_acknowledged": ("last opt-out acknowledged at {at}", "последний отзыв согласия подтверждён в {at}"),
    "said_acknowledged_on": (
        "last opt-out acknowledged on {date} at {at}",
        "последний отзыв согласия подтверждён {date} в {at}",
    ),
    # What to do.
    "do_2": (
        "Mend what the run said below, then run again. What was delivered is kept.",
        "Исправьте то, о чём запуск сообщил ниже, и запустите снова. Доставленное сохранено.",
    ),
    "do_3": (
        "See what is wrong with the export, and have it mended or made again.",
        "Посмотрите, что не так с выгрузкой; пусть её исправят или сделают заново.",
    ),
    "do_3_same": (
        "Ask why no new export was made. Nothing is lost: the next one is compared anew.",
        "Выясните, почему новая выгрузка не сделана. Ничего не потеряно: следующая будет сравнена заново.",
    ),
    "do_4": (
        "See what is wrong with the state, its keys, the folders or the disk; leave the state folder as it is.",
        "Посмотрите, что не так: состояние, ключи, папки, диск; саму папку состояния не меняйте.",
    ),
    "do_5": (
        "See how far the way to the platform goes: name, connection, certificate, answer. Nothing is sent.",
        "Посмотрите, докуда доходит путь к платформе: имя, соединение, сертификат, ответ. Ничего не отправляется.",
    ),
    "do_70": (
        "Report what the run said below. Nothing that was acknowledged is lost; run again.",
        "Сообщите разработчикам то, что запуск написал ниже. Подтверждённое не потеряно; запустите снова.",
    ),
    "do_75": (
        "See what is running; if sending is paused, `consent-sync resume` ends that.",
        "Посмотрите, что сейчас выполняется; если отправка приостановлена, её включает `consent-sync resume`.",
    ),
    "do_then": (
        "Then run again, or leave it to the next night: it carries on.",
        "Затем запустите снова или дождитесь следующей ночи: она продолжит.",
    ),
    "do_past_limit": (
        "See which opt-outs are past their limit, and what the platform answered.",
        "Посмотрите, какие отзывы согласия просрочены и что ответила платформа.",
    ),
    "do_drain": ("When the cause is mended, send them now.", "Когда причина устранена, отправьте их сразу."),
    "do_past_target": (
        "{n} {n|opt-out is|opt-outs are} older than the target: send {n|it|them} now.",
        "{n} {n|отзыв согласия|отзыва согласия|отзывов согласия} старше целевого срока: отправьте сейчас.",
    ),
    "do_renumbered": (
        "The ids look renumbered. If the platform has given its clients new ids, make a new state from this one, in "
        "another folder; if not, this is likely another shop's file: have the right one made.",
        "Похоже, номера клиентов сменились. Если платформа выдала новые номера, создайте из этого состояния новое, в "
        "другой папке; если нет, это, скорее всего, чужой файл: попросите правильный.",
    ),
    "do_lost": (
        "A column may have stopped saying no or yes: look at its blanks in the list of tokens.",
        "Возможно, колонка перестала заполняться: посмотрите на её пустые значения в списке.",
    ),
    "do_approve_grants": (
        "Read held.csv. If the grants are right, let through those of {n} {n|client|clients}; if not, have the export "
        "mended and run again.",
        "Прочитайте held.csv. Если разрешения верны, пропустите их для {n} {n|клиента|клиентов|клиентов}; если нет, "
        "пусть выгрузку исправят, и запустите снова.",
    ),
    "do_approve_revocations": (
        "Read held.csv. If the revocations are right, let through those of {n} {n|client|clients}; if not, have the "
        "export mended and run again.",
        "Прочитайте held.csv. Если отзывы в выгрузке верны, пропустите их для {n} {n|клиента|клиентов|клиентов}; "
        "если нет, пусть выгрузку исправят, и запустите снова.",
    ),
    "do_approve_clients": (
        "If the export with its {n} {n|client|clients} is right as it is, approve it whole.",
        "Если выгрузка с {n} {n|клиентом|клиентами|клиентами} верна как есть, одобрите её целиком.",
    ),
    "do_held": (
        "Read held.csv. What is older than a no, or in a file that is too old, cannot be approved: a newer export that "
        "allows it is sent.",
        "Прочитайте held.csv. То, что старше запрета или взято из слишком старого файла, одобрить нельзя: его разрешит "
        "более новая выгрузка.",
    ),
    "do_doubt_too_old": (
        "The export is too old to grant by it: have a new one made.",
        "Выгрузка слишком старая, чтобы по ней разрешать: попросите новую.",
    ),
    "do_doubt_older_than_the_last_one": (
        "The export is older than the last one: have a new one made.",
        "Выгрузка старше предыдущей: попросите новую.",
    ),
    "do_doubt_seen_before": (
        "These are the statements of an earlier night: have a new export made.",
        "Это данные одной из прошлых ночей: попросите новую выгрузку.",
    ),
    "do_doubt_undated": (
        "Nothing says when the export was made: mend it, or set [export] as_of.",
        "Неизвестно, когда сделана выгрузка: исправьте её или задайте [export] as_of.",
    ),
    "do_doubt_missing_column": (
        "A column is missing: have it put back, or map it to “” in [export.columns].",
        "В выгрузке нет колонки: пусть её вернут, или укажите для неё «» в [export.columns].",
    ),
    "do_doubt_rejects": (
        "Too many rows cannot be read: see why, and have the export mended.",
        "Слишком много нечитаемых строк: посмотрите причины; пусть выгрузку исправят.",
    ),
    "do_doubt_restored_state": (
        "The state is a restored backup: say who withdrew since then.",
        "Состояние восстановлено из копии: укажите, кто с тех пор отозвал согласие.",
    ),
    "do_not_found": (
        "ErrorCode {code} seems to mean “no such client”. If so, say it in [endpoint] of the configuration: such "
        "clients are then parked, and no alarm.",
        "Похоже, ErrorCode {code} значит «клиент не найден». Если так, укажите это в разделе [endpoint] настроек: "
        "такие клиенты будут отложены и не вызовут тревоги.",
    ),
    "do_refused": (
        "Read the platform's messages below; results.csv has the clients. They are tried again in some days, or now "
        "when the cause is mended.",
        "Прочитайте ниже ответы платформы; клиенты перечислены в results.csv. Повтор будет через несколько дней "
        "или сразу, когда причина устранена.",
    ),
    "do_rejects": (
        "See which rows could not be read (rejects.csv has them), and have the export mended.",
        "Посмотрите, какие строки не прочитаны (они в rejects.csv); пусть выгрузку исправят.",
    ),
    "do_backfill": (
        "The rest is due, and any run carries on with it.",
        "Остальное ждёт отправки; любой запуск его продолжит.",
    ),
    "do_backfill_cancel": (
        "If it was a mistake, take back what is left.",
        "Если это была ошибка, отмените оставшееся.",
    ),
    "do_carries_on": (
        "What was not sent, or got no sure answer, goes with the next run; or now.",
        "Что не отправлено или осталось без надёжного ответа, уйдёт со следующим запуском; или сейчас.",
    ),
    "do_delta_again": (
        "{n} {n|client|clients} did not get what this delta grants, and no later delta says it: give it again before "
        "the next one. What it denies goes with the next run in any case.",
        "{n} {n|клиент не получил|клиента не получили|клиентов не получили} разрешений из этой дельты, и в следующих "
        "их не будет: подайте её ещё раз до следующей. Запреты из неё уйдут со следующим запуском в любом случае.",
    ),
    "do_made": ("Nothing was sent yet: the first run does.", "Пока ничего не отправлено: это сделает первый запуск."),
    "do_read": ("Read what the run said below.", "Прочитайте ниже, что сообщил запуск."),
    # From rows to outcomes.
    "flow": ("From rows to outcomes", "От строк к результату"),
    "flow_rows": ("Rows of the export", "Строки выгрузки"),
    "flow_clients": ("Clients of the export", "Клиенты выгрузки"),
    "flow_changes": ("Changes to send", "Изменения к отправке"),
    "readable": ("clients with a readable row", "клиенты с читаемой строкой"),
    "planned_stated": ("to be sent", "к отправке"),
    "rows_total": ("rows", "строки"),
    "clients_total": ("clients", "клиенты"),
    "planned_total": ("changes", "изменения"),
    "in_rejects_only": (
        "{n} more {n|client is|clients are} named in unreadable rows only: what these deny counts, nothing else.",
        "Ещё {n} {n|клиент назван|клиента названы|клиентов названы} только в нечитаемых строках: учтены лишь "
        "запреты из них.",
    ),
    "conflicting": (
        "{n} {n|client has|clients have} rows that disagree (duplicates.csv).",
        "У {n} {n|клиента|клиентов|клиентов} строки противоречат друг другу (duplicates.csv).",
    ),
    "from_the_future": (
        "{n} {n|row has a time|rows have times} of consent in the future: {n|it counts|they count} as rows without "
        "one, so that a no wins.",
        "Время согласия в {n} {n|строке|строках|строках} ещё не наступило: {n|она считается|они считаются|они "
        "считаются} строками без времени, и побеждает запрет.",
    ),
    "others": (
        "{n} {n|row belongs|rows belong} to others, by [export.where], and {n|is|are} not counted.",
        "{n} {n|строка относится|строки относятся|строк относятся} к другим по [export.where] и не в счёт.",
    ),
    "planned_apart": (
        "{n} of the changes {n|is|are} of clients whom no row states: what was owed to them.",
        "{n} {n|изменение касается|изменения касаются|изменений касаются} клиентов, которых в строках нет: это "
        "наши долги перед ними.",
    ),
    "planned_less": (
        "{n} decided {n|change|changes} did not come into a plan, because the run ended before.",
        "{n} {n|решённое изменение|решённых изменения|решённых изменений} не вошли в план: запуск закончился раньше.",
    ),
    # What changes.
    "changes": ("What changed, by channel", "Что изменилось по каналам"),
    "changes_kinds": ("Changes by kind", "Изменения по видам"),
    "changes_matrix": ("From what was known to what is sent", "Что было известно и что отправляется"),
    "no_changes": ("No change was to be sent.", "Изменений к отправке не было."),
    "asked_for": (
        "The export asked for new grants of {new} {new|client|clients} and re-grants of {re}, before any guard.",
        "До проверок выгрузка просила новых разрешений для {new} {new|клиента|клиентов|клиентов}, повторных для {re}.",
    ),
    "channel": ("Channel", "Канал"),
    "new_grants": ("new grants", "новые разрешения"),
    "re_grants": ("re-grants", "повторные разрешения"),
    "revocations": ("revocations", "отзывы"),
    "new_denials": ("new denials", "новые запреты"),
    "repeated": ("repeated", "повторено"),
    "was": ("Known before", "Было известно"),
    "to_denied": ("sent: denied", "отправлено: запрещено"),
    "to_allowed": ("sent: allowed", "отправлено: разрешено"),
    # What the platform refused.
    "refusals": ("What was not delivered, and why", "Что не доставлено и почему"),
    "refusals_now": ("Answers by ErrorCode and Message", "Ответы по ErrorCode и Message"),
    "refusals_gone": ("Gone since the run before", "Не повторилось с прошлого запуска"),
    "no_refusals": ("Everything that was sent was delivered.", "Всё отправленное доставлено."),
    "looks_not_found": (
        "ErrorCode {code} reads like “no such client”, and not_found_codes is empty.",
        "ErrorCode {code} похож на «клиент не найден», а not_found_codes пуст.",
    ),
    "error_code": ("ErrorCode", "ErrorCode"),
    "message": ("Message", "Message"),
    "no_message": ("(no message)", "(без текста)"),
    "http": ("HTTP", "HTTP"),
    "ended": ("Ended as", "Итог"),
    "since": ("Since", "Давность"),
    "new": ("new", "новое"),
    "known": ("known", "известное"),
    # What could not be read.
    "rejects_title": ("Unreadable rows", "Нечитаемые строки"),
    "rejects_reasons": ("Reasons; a row can have several", "Причины; у строки их может быть несколько"),
    "rejects_note": (
        "{n} {n|row is|rows are} in rejects.csv, each with its line and reason.",
        "{n} {n|строка|строки|строк} в rejects.csv, каждая с номером и причиной.",
    ),
    "no_rejects": ("Every row could be read.", "Все строки прочитаны."),
    "reason": ("Reason", "Причина"),
    "reason_unknown_token": ("unknown token", "непонятное значение"),
    "reason_no_id": ("no id", "нет номера клиента"),
    "reason_not_a_whole_number": ("not a whole number", "не целое число"),
    "reason_not_in_id_map": ("not in id_map", "нет в id_map"),
    "reason_outside_1_to_2147483647": ("outside 1 to 2147483647", "вне пределов от 1 до 2147483647"),
    "reason_too_few_or_too_many_fields": ("too few or too many fields", "слишком мало или слишком много полей"),
    # What is owed.
    "owed": ("Opt-outs and what is owed", "Отзывы согласия и долги по ним"),
    "nothing_owed": ("Nobody is owed a denial.", "Неподтверждённых запретов нет."),
    "ambiguous": (
        "{n} {n|withdrawal's CRM number means|withdrawals' CRM numbers mean} another client than when {n|it was|they "
        "were} received; both are denied.",
        "{n} {n|отзыв|отзыва|отзывов}, номер из CRM которых теперь означает другого клиента, чем при получении; "
        "запрещено обоим.",
    ),
    "last_acknowledged": ("The last opt-out was acknowledged on {at}.", "Последний отзыв согласия подтверждён {at}."),
    "target_limit": ("The target is {target}, the limit {limit}.", "Целевой срок {target}, предельный {limit}."),
    "target_statutory": (
        "The target is {target}; the limit is the statutory deadline.",
        "Целевой срок {target}; предельный определяется законом.",
    ),
    "oldest": ("The oldest is of {at}.", "Самый старый долг от {at}."),
    "first_limit": ("The first limit is {at}.", "Ближайший предельный срок: {at}."),
    "owed_counts": ("Clients who are owed a denial", "Клиенты с неподтверждённым запретом"),
    "owed_open": ("open", "открыто"),
    "owed_past_target": ("of them past the target", "из них старше целевого срока"),
    "owed_past_limit": ("of them past the limit", "из них просрочено"),
    "owed_parked": ("parked: the platform does not know them", "отложено: платформа их не знает"),
    "owed_ages": ("Open, by age", "Открытые по возрасту"),
    "age": ("Age", "Возраст"),
    "age_upto": ("up to {upto}", "до {upto}"),
    "age_over": ("over {after}", "больше {after}"),
    "owed_sources": ("Because of", "Основание"),
    "source_withdrawal": ("an opt-out", "отзыв согласия"),
    "source_revocation": ("a revocation by the export", "отзыв в выгрузке"),
    "source_compare": ("a comparison with the platform", "сверка с платформой"),
    "source_merge": ("clients who became one", "объединение клиентов"),
    "source_erasure": ("an erasure", "удаление клиента"),
    # What the guards held.
    "guarded": ("Held, and stopped by opt-out", "Задержано и остановлено отзывом согласия"),
    "no_guarded": ("Nothing was held, and no opt-out had to stop anything.", "Ничего не задержано и не остановлено."),
    "guards": ("Guards that tripped", "Сработавшие проверки"),
    "guard": ("Guard", "Проверка"),
    "at_most": ("At most", "Не более"),
    "guard_re_grants": ("re-grants", "повторные разрешения"),
    "guard_new_grants": ("new grants", "новые разрешения"),
    "guard_revocations": ("revocations", "отзывы"),
    "guard_changed_clients": ("changed clients", "изменившиеся клиенты"),
    "guard_unknown_ids": ("unknown ids", "незнакомые номера"),
    "guard_lost_consents": ("lost consents", "пропавшие согласия"),
    "guard_shrinkage": ("fewer clients", "клиентов стало меньше"),
    "guard_rejects": ("unreadable rows", "нечитаемые строки"),
    "held_channels": ("Clients by channel", "Клиенты по каналам"),
    "held_note": (
        "{n} {n|client has|clients have} nothing to send but what is held (held.csv).",
        "У {n} {n|клиента|клиентов|клиентов} нечего отправить, кроме задержанного (held.csv).",
    ),
    "blocked_note": (
        "{n} {n|client is|clients are} allowed by the export, and had opted out: the opt-out holds (blocked.csv).",
        "Выгрузка разрешает {n} {n|клиенту|клиентам|клиентам}, отозвавшим согласие: отзыв сильнее (blocked.csv).",
    ),
    "approved": (
        "Approved: {n} {n|client|clients} of run {run}, by {by}: {reason}",
        "Одобрено: {n} {n|клиент|клиента|клиентов} запуска {run}, {by}: {reason}",
    ),
    "grants_nothing": ("This run grants nothing:", "Этот запуск ничего не разрешает:"),
    "doubt_too_old": ("The export is too old to grant by it.", "Выгрузка слишком старая, чтобы по ней разрешать."),
    "doubt_older_than_the_last_one": (
        "The export is older than the last applied one, and grants nothing.",
        "Выгрузка старше последней применённой и ничего не разрешает.",
    ),
    "doubt_undated": (
        "Nothing says when the export was made, so it grants nothing.",
        "Неизвестно, когда сделана выгрузка, поэтому она ничего не разрешает.",
    ),
    "doubt_seen_before": (
        "This content was read before, and another one since: it grants nothing.",
        "Это содержимое уже читалось, а после него другое: оно ничего не разрешает.",
    ),
    "doubt_shrunken": (
        "The export has far fewer clients than the last one, and grants nothing: was it cut short?",
        "В выгрузке намного меньше клиентов, чем в прошлой, и она ничего не разрешает: не оборвана ли она?",
    ),
    "doubt_rejects": (
        "Too many rows of the export cannot be read, so it grants nothing.",
        "Слишком много нечитаемых строк, поэтому выгрузка ничего не разрешает.",
    ),
    "doubt_missing_column": (
        "A column of the export is missing, so it grants nothing.",
        "В выгрузке нет колонки, поэтому она ничего не разрешает.",
    ),
    "doubt_restored_state": (
        "The state is a restored backup, and nothing is granted until it is known what it lacks.",
        "Состояние восстановлено из копии: разрешений не будет, пока не известно, чего в ней не хватает.",
    ),
    # Who is missing.
    "gone": ("Missing from the export", "Чего нет в выгрузке"),
    "gone_counts": ("Nothing was sent because of these", "Из-за этого ничего не отправляется"),
    "absent": (
        "known clients whom it no longer has (absent.csv)",
        "знакомые клиенты, которых в ней больше нет (absent.csv)",
    ),
    "lost": ("allowed clients of whom it states nothing", "клиенты с согласием, о которых она молчит"),
    "unknown": ("clients who were not known before", "раньше незнакомые клиенты"),
    "no_export": ("No export was read.", "Выгрузка не читалась."),
    # How it went.
    "speed": ("How the sending went", "Как шла отправка"),
    "sending": ("Requests and answers", "Запросы и ответы"),
    "no_requests": ("No request was made.", "Запросов не было."),
    "requests": ("requests", "запросы"),
    "requests_per_s": ("requests a second", "запросов в секунду"),
    "retries": ("of them repeated", "из них повторные"),
    "round_trip": ("usual time to an answer", "обычное время ответа"),
    "most_in_flight": ("most in flight at once", "больше всего одновременно"),
    "limit_end": ("limit at the end", "предел в конце"),
    "turned_away": ("turned away as too many", "отклонено из-за перегрузки"),
    "pauses": ("pauses that the platform asked for", "паузы по просьбе платформы"),
    "outages": ("outages", "перебои"),
    "once_more": ("changes tried once more at the end", "повторено ещё раз в конце"),
    "answered_within": ("{share} answered within", "{share} ответов не дольше"),
    "answered_above": ("{share} not answered within", "{share} ответов дольше"),
    "stages": ("Where the time went", "На что ушло время"),
    "stage": ("Stage", "Этап"),
    "time": ("Time", "Время"),
    "stage_read": ("reading", "чтение"),
    "stage_decide": ("deciding", "решение"),
    "stage_deliver": ("sending", "отправка"),
    "stage_report": ("reporting", "отчёт"),
    "memory": ("At most {n} MB of memory were used.", "Памяти использовано не более {n} МБ."),
    # What was read.
    "inputs": ("What was read", "Что прочитано"),
    "age_unchecked": (
        "The age of the export is not checked ([export] as_of = none).",
        "Возраст выгрузки не проверяется ([export] as_of = none).",
    ),
    "age_unknown": ("The age of the export is not known.", "Возраст выгрузки неизвестен."),
    "age_known": ("The export is of {at}: {age} old when it was read.", "Выгрузка от {at}: при чтении ей было {age}."),
    "missing_column": (
        "The column {name} is missing: it states nothing in this run.",
        "Колонки {name} нет: по ней в этом запуске ничего не сказано.",
    ),
    "left_out": (
        "{n} older {n|file was|files were} left out.",
        "{n} {n|старый файл пропущен|старых файла пропущены|старых файлов пропущены}.",
    ),
    "more_files": ("… and {n} more {n|file|files}.", "… и ещё {n} {n|файл|файла|файлов}."),
    "id_map": ("Map of ids: {name}", "Соответствие номеров: {name}"),
    "digest": ("SHA-256", "SHA-256"),
    "size": ("size in bytes", "размер в байтах"),
    "format": ("format", "формат"),
    "compression": ("compression", "сжатие"),
    "encoding": ("encoding", "кодировка"),
    "delimiter": ("delimiter", "разделитель"),
    "newline": ("lines end in", "конец строки"),
    "sheet": ("sheet", "лист"),
    "comments": ("comments", "комментарии"),
    "repeated_headers": ("repeated headers", "повторные заголовки"),
    "columns": ("columns", "колонки"),
    # With which settings.
    "settings": ("Settings", "Настройки"),
    "settings_all": ("All settings; secrets are masked", "Все настройки; секреты скрыты"),
    "no_settings": ("They were not kept with this run.", "С этим запуском они не сохранены."),
    "key": ("Key", "Ключ"),
    # The last nights.
    "trend": ("The last nights", "Последние ночи"),
    "nights": ("Nights: {n}, the newest last", "Ночи: {n}, новые в конце"),
    "drains": ("Sent between the nights: {n}", "Отправлено между ночами: {n}"),
    "run": ("Run", "Запуск"),
    "kind": ("Kind", "Вид"),
    "state": ("State", "Состояние"),
    "owing": ("owed", "долги"),
    "runs": ("All runs, the newest first", "Все запуски, сначала новые"),
    "sentence": ("In a sentence", "Одной фразой"),
    "no_runs": ("No run is kept.", "Сохранённых запусков нет."),
}
