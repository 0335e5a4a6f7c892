"""Sound and music."""

from tests.corpora.published.tree import BROKEN, Case

CASES = [
    Case(
        "esc50",
        {
            "meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,30,door_wood_knock,False,1,A\n"
            "2-2-A-1.wav,2,1,rooster,False,2,A\n2-3-A-1.wav,2,1,rooster,False,3,A\n1-9-A-0.wav,1\n",
            "audio/1-1-A-0.wav": 5.0,
            "audio/2-2-A-1.wav": BROKEN,
        },
        ["[00:00-00:05] (Audio category: door wood knock, Duration: 5 seconds)"],
        {"unreadable": 1, "missing": 1, "broken_row": 1},
    ),
    Case(
        "wavcaps",
        {
            "json_files/SoundBible/sb_final.json": {
                "num_captions_per_audio": 1,
                "data": [{"id": "1", "caption": "There is the sound of a truck.", "duration": 4}, {"id": "2", "duration": 1}, {"id": "3", "caption": "Rain."}],
            },
            "json_files/AudioSet_SL/as_final.json": {"data": [{"id": "Yabc.wav", "caption": "A dog barks (twice)."}]},
            "SoundBible/mnt/deep/SoundBible_flac/1.flac": 4.0,
            "AudioSet_SL/Yabc.flac": 65.0,
        },
        [f"[00:00-00:{s}] (A dog barks twice .)" for s in ("22", "22", "22")] + ["[00:00-00:04] (There is the sound of a truck.)"],
        {"broken_row": 1, "missing": 1},
    ),
    Case(
        "gtzan",
        {"genres/hiphop/hiphop.00000.wav": 3.0, "genres/jazz/jazz.00054.wav": BROKEN, "genres/reggae/reggae.00001.au": 30.0},
        ["[00:00-00:03] (Genre: hip hop, Duration: 3 seconds)", "[00:00-00:30] (Genre: reggae, Duration: 30 seconds)"],
        {"unreadable": 1},
    ),
    Case(
        "audioset",
        {
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/07qcpgn,"Gush"\n2,/m/0x,"Bird vocalization, bird call"\n',
            "balanced_train_segments.csv": "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=4\n"
            "# YTID, start_seconds, end_seconds, positive_labels\n"
            '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/07qcpgn"\nYabcdefghij, 0.000, 10.000, "/m/0x"\nnothere1234, 0, 10, "/m/0x"\n'
            'brokenlabel, 0, 10, "/m/none"\nbrokenaudio, 0, 10, "/m/0x"\n',
            "wavs/--PJHxphWEs_30.000.wav": 10.0,
            "wavs/YYabcdefghij.flac": 8.0,
            "wavs/brokenlabel.wav": 1.0,
            "wavs/brokenaudio.wav": BROKEN,
        },
        ["[00:00-00:10] (speech, gush)", "[00:00-00:08] (bird vocalization, bird call)"],
        {"not_downloaded": 1, "broken_row": 1, "unreadable": 1},
    ),
    Case(
        "audiocaps",
        {
            "train.csv": "audiocap_id,youtube_id,start_time,caption\n1,--PJHxphWEs,30,Plastic crinkling as people talk\n"
            "2,gonegonegon,10,Rain\n3,brokenaudio,0,x\n4,short\n",
            "test.csv": "audiocap_id,youtube_id,start_time,caption\n7,abcdefghijk,5,A man talks\n8,abcdefghijk,5,Someone speaks\n",
            "audio/--PJHxphWEs_30.wav": 10.0,
            "audio/brokenaudio.wav": BROKEN,
            "audio/7.wav": 10.0,
        },
        ["[00:00-00:10] (Plastic crinkling as people talk)", "[00:00-00:10] (A man talks)"],
        {"not_downloaded": 1, "broken_row": 1, "unreadable": 1},
        splits=["train", "test"],
    ),
    Case(
        "clotho",
        {
            "clotho_captions_development.csv": 'file_name,caption_1,caption_2\ndoor.wav,"Someone opening, then closing a door",A door\nx.wav,,\ny.wav,c,d\n',
            "development/door.wav": 26.0,
            "development/y.wav": b"",
        },
        ["[00:00-00:26] (Someone opening, then closing a door)"],
        {"broken_row": 1, "empty": 1},
    ),
    Case(
        "vocalsound",
        {
            "vs/audio_16k/f0003_0_laughter.wav": 4.0,
            "vs/audio_16k/m0004_0_sneeze.wav": 11.0,
            "vs/audio_16k/m0004_0_hum.wav": 1.0,
            "vs/audio_16k/m0005_0_sigh.wav": BROKEN,
            "vs/datafiles/te.json": {"data": [{"wav": "/data/sls/audio_16k/m0004_0_sneeze.wav", "labels": "/m/01hsr_"}]},
        },
        ["[00:00-00:04] (laughter)", "[00:00-00:11] (sneeze)"],
        {"broken_row": 1, "unreadable": 1},
        splits=["train", "test"],
    ),
    Case(
        "fsd50k",
        {
            "FSD50K.ground_truth/dev.csv": 'fname,labels,mids,split\n64760,"Water,Gurgling,Toilet_flush","/m/0,/m/1",train\n'
            "1,Bark,/m/0,val\n2\n3,Bark,/m/0,train\n",
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n9,Meow,/m/0\n",
            "FSD50K.dev_audio/64760.wav": 18.0,
            "FSD50K.dev_audio/1.wav": 1.0,
            "FSD50K.eval_audio/9.wav": 1.0,
        },
        ["[00:00-00:18] (Type: water; gurgling; toilet flush)", "[00:00-00:01] (Type: bark)", "[00:00-00:01] (Type: meow)"],
        {"broken_row": 1, "missing": 1},
        splits=["train", "validation", "test"],
    ),
    Case(
        "nsynth",
        {
            "nsynth-valid/examples.json": {
                "bass_electronic_018-022-100": {
                    "instrument_family_str": "bass",
                    "instrument_source_str": "electronic",
                    "instrument_str": "bass_electronic_018",
                    "pitch": 22,
                    "velocity": 100,
                    "qualities_str": ["dark", "fast_decay"],
                },
                "broken": {"pitch": 1},
                "gone": {"instrument_family_str": "bass", "instrument_source_str": "x", "instrument_str": "y", "pitch": 1, "velocity": 1},
            },
            "nsynth-valid/audio/bass_electronic_018-022-100.wav": 4.0,
        },
        ["[00:00-00:04] (Family: bass, Source: electronic, MIDI Note: 022, Qualities: dark; fast decay)"],
        {"broken_row": 1, "missing": 1},
        splits=["validation"],
    ),
    Case(
        "open_singer",
        {
            "OpenSinger/ManRaw/11_一如年少模样/11_一如年少模样_5.wav": 6.0,
            "OpenSinger/ManRaw/11_一如年少模样/11_一如年少模样_5.txt": "多少凉薄世态可动荡",
            "OpenSinger/WomanRaw/3_歌/3_歌_0.wav": BROKEN,
            "OpenSinger/WomanRaw/nosong/x.wav": 1.0,
        },
        ["[00:00-00:06] 多少凉薄世态可动荡 (Gender: male, Song: 一如年少模样)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "fma",
        {
            "fma_metadata/tracks.csv": ",album,artist,set,track,track,track,track\n,comments,id,split,genre_top,genres,title,license\ntrack_id,,,,,,,\n"
            '2,0,1,training,Rock,"[21]","Food, again",CC\n5,0,1,test,,"[21, 22]",X,CC\n6,0,1\n7,0,1,training,Rock,[],Y,CC\n',
            "fma_metadata/genres.csv": "genre_id,#tracks,parent,title,top_level\n21,1,0,Hip-Hop,21\n",
            "fma_large/000/000002.mp3": 30.0,
            "fma_large/000/000005.mp3": 2.0,
            "fma_large/000/000006.mp3": 2.0,
            "fma_large/000/000007.mp3": BROKEN,
        },
        ["[00:00-00:30] (Genre: Rock)", "[00:00-00:02] (Genre: Hip-Hop)"],
        {"broken_row": 2, "unreadable": 1},
        splits=["train", "test"],
    ),
    Case(
        "mridangam",
        {
            "mridangam_stroke_1.5/B/224030__akshaylaya__cha-b-001.wav": 1.0,
            "mridangam_stroke_1.5/C#/224031__akshaylaya__ta-csh-001.wav": 1.0,
            "mridangam_stroke_1.5/B/readme__x.wav": 1.0,
            "mridangam_stroke_1.5/B/224032__akshaylaya__cha-b-002.wav": BROKEN,
        },
        ["[00:00-00:01] (Stroke: cha, Tonic: b, Duration: 1 second)", "[00:00-00:01] (Stroke: ta, Tonic: c sharp, Duration: 1 second)"],
        {"broken_row": 1, "unreadable": 1},
    ),
]
