"""Every word of the page, in each of its languages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The page in one language; a language that lacks a word cannot be made.

    Attributes:
        language: Code of the language (BCP 47).
        chances: A probability in words, by the lowest percentage that it is said of.
        refusals: Why a file is not judged, by HTTP status; `{megabytes}` and `{megapixels}` are filled in.
        samples: Pictures to try, by the name of `sample_pictures`.
        methods: Of heatmaps, by the name of the method, with how long they take.
    """

    language: str
    name: str
    title: str
    introduction: str
    privacy: str
    one_picture: str
    many_pictures: str
    guide_title: str
    drop: str
    picture: str
    examples: str
    samples: dict[str, str]
    nothing_yet: str
    verdicts: dict[str, str]
    labels: dict[str, str]
    chances: dict[int, str]
    chance: str
    of_hundred: str
    share_of_votes: str
    threshold: str
    band: str
    no_proof: str
    probability_of_fake: str
    several_frames: str
    members: str
    agreement: str
    member: str
    says: str
    weight: str
    changed: str
    changed_note: str
    version: str
    as_it_is: str
    after_jpeg: str
    after_half: str
    holds: str
    flips: str
    file: str
    file_note: str
    format: str
    size: str
    camera: str
    software: str
    date: str
    place: str
    place_present: str
    not_stated: str
    credentials: str
    credential_states: dict[str, str]
    signed_by: str
    says_made_by_ai: str
    heatmap: str
    heatmap_note: str
    method: str
    methods: dict[str, str]
    show_heatmap: str
    explaining: str
    checking: str
    legend: str
    heatmap_alt: str
    better_than_random: str
    no_better_than_random: str
    no_heatmap: str
    picture_first: str
    batch_note: str
    batch_files: str
    judge_all: str
    batch_empty: str
    judged: str
    batch_summary: str
    column_file: str
    column_verdict: str
    column_problem: str
    download: str
    refusals: dict[int, str]
    failed: str
    guide: str


ENGLISH = Words(
    language="en",
    name="English",
    title="Real photograph or deepfake?",
    introduction="Drop in a picture. Several detectors vote on whether it is a real photograph or was made or altered by "
    "a computer.",
    privacy="Your picture is judged on the computer that shows this page, is sent nowhere else, and is deleted there within "
    "an hour.",
    one_picture="One picture",
    many_pictures="Many",
    guide_title="Guide",
    drop="# Drop a picture here\nor click to choose one, or paste it",
    picture="Your picture",
    examples="Or try one of these",
    samples={
        "coffee": "coffee",
        "coffee altered": "coffee, altered",
        "chelsea": "cat",
        "chelsea altered": "cat, altered",
    },
    nothing_yet="The verdict appears here.",
    verdicts={"real": "Looks real", "fake": "Looks fake", "uncertain": "Cannot tell"},
    labels={"real": "real", "fake": "fake", "uncertain": "uncertain"},
    chances={
        98: "almost certainly fake",
        85: "very probably fake",
        65: "rather fake than real",
        35: "little more than a guess",
        15: "rather real than fake",
        2: "very probably real",
        0: "almost certainly real",
    },
    chance="{percent} chance of being fake: {chance}.",
    of_hundred="Of 100 pictures with this score, about {count} are fake, if your pictures are like those that the detectors "
    "learnt from.",
    share_of_votes="{percent} of the detectors vote fake. This is a count of votes, not a probability.",
    threshold="It is called fake from {percent} on.",
    band="Between {low} and {high} the detectors leave it open.",
    no_proof="A score is evidence, not proof: do not accuse anyone because of it.",
    probability_of_fake="Probability of fake",
    several_frames="The file holds several frames or pages; the first one was judged.",
    members="What each detector says",
    agreement="{agreeing} of {all} detectors agree with the verdict.",
    member="Detector",
    says="Says",
    weight="Share of the vote",
    changed="Does the verdict hold?",
    changed_note="Pictures are compressed and made smaller on their way. A verdict that changes with that is a weak one.",
    version="Picture",
    as_it_is="As it is",
    after_jpeg="Compressed (JPEG, quality 50)",
    after_half="Half the size",
    holds="The verdict stays the same under both changes.",
    flips="The verdict changes: trust it less.",
    file="What the file says",
    file_note="Anyone can write these entries, and most apps remove them. They are hints, not proof, and play no part in the verdict.",
    format="Format",
    size="Size",
    camera="Camera",
    software="Software",
    date="Date",
    place="Place",
    place_present="The file says where it was taken (not shown here; others who get this file can read it)",
    not_stated="not stated",
    credentials="Content credentials (C2PA)",
    credential_states={
        "none": "none; most pictures have none, so this says nothing either way",
        "intact": "signed, and unchanged since; whether the signer can be trusted is not checked",
        "broken": "there, but they do not fit: the picture or its record was changed after signing",
        "remote": "kept on another server, which is not asked",
        "unreadable": "there, but damaged",
    },
    signed_by="signed by {signer}",
    says_made_by_ai="They say that AI made the picture or a part of it.",
    heatmap="Where did they look?",
    heatmap_note="A map of the places that speak most for the verdict, and a check of whether it can be believed.",
    method="Method",
    methods={
        "grad_cam": "Grad-CAM: regions, a second",
        "occlusion": "Occlusion: covers parts in turn, several seconds",
        "integrated_gradients": "Integrated Gradients: single pixels, about half a minute",
        "frequency": "Frequencies: coarse and fine patterns, several seconds",
    },
    show_heatmap="Show the map",
    explaining="Drawing the map",
    checking="Checking the map against random ones",
    legend="Bright yellow: speaks most for “{label}”. Plain grey: no influence.",
    heatmap_alt="Your picture in grey, with the places that speak for {label} in colour",
    better_than_random="Passed the check: hiding the marked places changes the score more than hiding random ones.",
    no_better_than_random="Failed the check: random places do as well. Do not believe this map.",
    no_heatmap="There is no map of this: {reason}",
    picture_first="Drop in a picture first.",
    batch_note="Each picture gets its own row. A file that cannot be judged says why and does not stop the others.",
    batch_files="Pictures",
    judge_all="Judge all",
    batch_empty="Choose some pictures first.",
    judged="Judging",
    batch_summary="{count} files: {fake} fake, {real} real, {uncertain} uncertain, {failed} not judged.",
    column_file="File",
    column_verdict="Verdict",
    column_problem="Problem",
    download="Download as CSV",
    refusals={
        413: "This file is too large. Files of up to {megabytes} MB and {megapixels} million pixels are judged.",
        415: "This is not a picture, or of a kind that is not read here. Try JPEG, PNG or WebP.",
        422: "This file is empty or damaged. Try to open it on your own device, or save it again.",
    },
    failed="Something went wrong here, not with your picture. Try again later.",
    guide="""## How to read this

**The verdict** is *looks real*, *looks fake* or *cannot tell*. It comes from a probability: each detector gives one, they
are combined, and from a certain value on, which was fitted on pictures with known answers, the picture is called fake.

**The probability** is calibrated. Of pictures that get 80 %, about 80 in 100 were fake, among the pictures that it was
fitted on. Where fakes are rarer than there, a high score is more often a false alarm.

**Does the verdict hold?** shows it once more after compression and at half the size. If it changes, little hangs on it.

**The map** shows where the detectors found what speaks for the verdict. It is checked against random maps; where these do
as well, it says so, and you should not believe it. It does not show which part of a picture was altered.

**What the file says** is read from the file itself, and can be forged or lost. The verdict does not use it.

## What it cannot do

- **New kinds of fakes.** A detector knows the traces of the fakes that it learnt from. Those of another generator it
  can miss, and be sure of itself.
- **Other pictures than it learnt from.** Screenshots, scans, drawings, heavy filters and strong compression mislead it.
- **Tell what is true.** A real photograph can be shown in a false context, and an altered one can be harmless.

## Who is harmed by a wrong answer

A wrong “fake” accuses an honest person; a wrong “real” lets a forgery pass. Look at where the picture comes from, who
published it first and whether other pictures show the same. Let a person decide.
""",
)

CHINESE = Words(
    language="zh",
    name="中文",
    title="真实照片，还是深度伪造？",
    introduction="放入一张图片，多个检测器会投票判断：它是真实照片，还是由计算机生成或篡改的。",
    privacy="图片只在提供本页面的计算机上判断，不会发送到别处，并在一小时内从那里删除。",
    one_picture="单张图片",
    many_pictures="多张图片",
    guide_title="说明",
    drop="# 将图片拖放到这里\n或点击选择，或直接粘贴",
    picture="您的图片",
    examples="或试试这些图片",
    samples={"coffee": "咖啡", "coffee altered": "咖啡（经篡改）", "chelsea": "猫", "chelsea altered": "猫（经篡改）"},
    nothing_yet="判断结果将显示在这里。",
    verdicts={"real": "看起来是真的", "fake": "看起来是假的", "uncertain": "无法判断"},
    labels={"real": "真实", "fake": "伪造", "uncertain": "不确定"},
    chances={
        98: "几乎可以肯定是伪造",
        85: "很可能是伪造",
        65: "更像伪造",
        35: "与猜测相差无几",
        15: "更像真实",
        2: "很可能是真实",
        0: "几乎可以肯定是真实",
    },
    chance="伪造的概率为 {percent}：{chance}。",
    of_hundred="得到这个分数的 100 张图片中，约有 {count} 张是伪造的——前提是您的图片与检测器学习过的图片类似。",
    share_of_votes="{percent} 的检测器投票认为是伪造。这是票数比例，不是概率。",
    threshold="从 {percent} 起判为伪造。",
    band="在 {low} 与 {high} 之间，检测器不作判断。",
    no_proof="分数只是线索，不是证据：请勿仅凭它指责任何人。",
    probability_of_fake="伪造的概率",
    several_frames="文件包含多帧或多页；这里只判断了第一帧。",
    members="各检测器的意见",
    agreement="{all} 个检测器中有 {agreeing} 个与结论一致。",
    member="检测器",
    says="意见",
    weight="投票权重",
    changed="结论是否稳定？",
    changed_note="图片在传播中会被压缩和缩小。如果结论因此改变，它就不可靠。",
    version="图片",
    as_it_is="原图",
    after_jpeg="压缩后（JPEG，质量 50）",
    after_half="缩小一半",
    holds="两种改变之后，结论都不变。",
    flips="结论发生了变化：请降低对它的信任。",
    file="文件自身的信息",
    file_note="这些信息任何人都能写入，多数应用会将其删除。它们只是线索，不是证据，也不影响结论。",
    format="格式",
    size="大小",
    camera="相机",
    software="软件",
    date="日期",
    place="地点",
    place_present="文件记录了拍摄地点（此处不显示；但拿到文件的人可以读取）",
    not_stated="未说明",
    credentials="内容凭证（C2PA）",
    credential_states={
        "none": "没有；大多数图片都没有，因此不能说明任何问题",
        "intact": "已签名，且此后未改动；签名者是否可信未作检查",
        "broken": "有，但不相符：图片或其记录在签名之后被改动过",
        "remote": "存放在另一台服务器上，此处不去查询",
        "unreadable": "有，但已损坏",
    },
    signed_by="签名者：{signer}",
    says_made_by_ai="凭证说明：图片全部或部分由人工智能生成。",
    heatmap="检测器看了哪里？",
    heatmap_note="显示最支持该结论的位置，并检验这张图是否可信。",
    method="方法",
    methods={
        "grad_cam": "Grad-CAM：区域，约一秒",
        "occlusion": "遮挡法：依次遮住各部分，数秒",
        "integrated_gradients": "积分梯度：单个像素，约半分钟",
        "frequency": "频率：粗细纹理，数秒",
    },
    show_heatmap="显示热力图",
    explaining="正在绘制热力图",
    checking="正在与随机图对比检验",
    legend="亮黄色：最支持“{label}”。灰色：没有影响。",
    heatmap_alt="您的图片以灰度显示，支持{label}的位置以彩色标出",
    better_than_random="通过检验：遮住标出的位置，比遮住随机位置更能改变分数。",
    no_better_than_random="未通过检验：随机位置的效果相同。请勿相信这张图。",
    no_heatmap="无法绘制热力图：{reason}",
    picture_first="请先放入一张图片。",
    batch_note="每张图片占一行。无法判断的文件会说明原因，不影响其他文件。",
    batch_files="图片",
    judge_all="全部判断",
    batch_empty="请先选择一些图片。",
    judged="正在判断",
    batch_summary="共 {count} 个文件：伪造 {fake}，真实 {real}，不确定 {uncertain}，未判断 {failed}。",
    column_file="文件",
    column_verdict="结论",
    column_problem="问题",
    download="下载 CSV",
    refusals={
        413: "文件太大。最多可判断 {megabytes} MB、{megapixels} 百万像素的文件。",
        415: "这不是图片，或者是这里不支持的格式。请使用 JPEG、PNG 或 WebP。",
        422: "文件为空或已损坏。请在您的设备上打开检查，或重新保存。",
    },
    failed="这里出了问题，与您的图片无关。请稍后再试。",
    guide="""## 如何理解结果

**结论**分为*看起来是真的*、*看起来是假的*和*无法判断*。它来自一个概率：每个检测器给出一个概率，再合并起来；
达到某个值（用已知答案的图片确定）后，就判为伪造。

**概率**经过校准：在用于校准的图片中，得到 80 % 的图片里每 100 张约有 80 张是伪造的。
如果您那里的伪造图片比其中更少，高分就更可能是误报。

**结论是否稳定？**显示压缩后和缩小一半后的结论。如果结论改变，就不要太看重它。

**热力图**显示检测器在哪里找到了支持结论的迹象，并与随机图对比检验；如果随机图效果相同，页面会说明，
此时请勿相信它。它并不显示图片的哪一部分被篡改。

**文件自身的信息**读自文件本身，可能是伪造的，也可能已丢失。结论不使用它。

## 它做不到的事

- **新型伪造。**检测器只认识它学过的伪造痕迹。对于其他生成器，它可能漏判，而且显得很有把握。
- **与学习内容不同的图片。**截图、扫描件、绘画、重度滤镜和强压缩都会误导它。
- **判断真相。**真实照片可能被放在虚假的语境中，被修改的照片也可能无害。

## 错误的答案会伤害谁

误判为“伪造”会冤枉诚实的人；误判为“真实”会放过伪造品。请查看图片的来源、最早的发布者，以及是否有其他图片显示同样的内容。
让人来作决定。
""",
)

LANGUAGES = (ENGLISH, CHINESE)
